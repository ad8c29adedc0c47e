#!/bin/sh
# Stands in for `garage -c CONFIG ...` in tests: answers as it does, refuses the first layout as a starting cluster would, stores nothing.
config=$2
node=$(dirname "$config")
shift 2
echo "$(basename "$node") $*" >> "$(dirname "$node")/commands"
case "$*" in
server) exec sleep 60 ;;
"node id -q") echo "aa$(basename "$node")@127.0.0.1:1" ;;
"layout apply --version 1")
    if [ ! -e "$node/refused" ]; then touch "$node/refused"; echo "not yet" >&2; exit 1; fi ;;
"key create bench") printf 'Key name: bench\nKey ID:              GK42\nSecret key:          abcdef\n' ;;
esac
