# shellcheck shell=bash
# What the launch scripts share: sub-commands, --dry_run and quoting. It is sourced, never run.
dry_run=
for word in "$@"; do
  shift
  if [[ $word == --dry_run ]]; then dry_run=1; else set -- "$@" "$word"; fi
done

# The words as a line that a shell reads back as the same words.
quoted() {
  local word line=
  for word in "$@"; do
    if [[ ! $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      word="'$(printf '%s' "$word" | sed "s/'/'\\\\''/g")'"
    fi
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# Runs a command; with --dry_run it is printed instead.
run() {
  if [[ $dry_run ]]; then quoted "$@"; else "$@"; fi
}

# Says when the commands that follow are run, where --dry_run prints them all.
note() {
  if [[ $dry_run ]]; then printf '# %s\n' "$*"; fi
}

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# The comment at the head of a script is its help.
usage() {
  sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p;}' "$0"
}

# The checkout without what git ignores (runs, environments) as a .tar.gz at $1.
pack() {
  run bash -c "git ls-files --cached --others --exclude-standard -z | tar czf $(quoted "$1") --null -T -"
}
