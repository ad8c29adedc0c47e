#!/bin/sh
# Stand-in for the node's binary in unit tests: it knows `init`, `run`, `invite`, `fat`, `status`
# and `recover`, does nothing, and answers what the command line contract says.
# The file DIR/../fail-NAME makes `run` of that node fail.
dir= command= port= listen=
while [ $# -gt 0 ]; do
    case $1 in
        --dir) dir=$2; shift ;;
        --json) ;;
        --listen) listen=$2; shift ;;
        --*) [ "$1" = --no-phrase ] || shift ;;
        *) [ -n "$command" ] || command=$1 ;;
    esac
    shift
done
name=$(basename "$dir")
case $command in
    init)
        echo "listen = [\"$listen\"]" >"$dir/fathom.toml"
        echo "{\"node\":\"id-$name\",\"peer_id\":\"peer-$name\",\"phrase\":\"words of $name\"}" ;;
    run)
        echo "$name runs for parent ${FATHOM_PARENT_PID:-nobody}" >&2
        if [ -e "$dir/../fail-$name" ]; then echo "$name has no luck today" >&2; exit 9; fi
        listen=$(sed 's/.*"\(.*\)".*/\1/' "$dir/fathom.toml")
        echo "{\"pid\":$$,\"node\":\"id-$name\",\"peer_id\":\"peer-$name\",\"addresses\":[\"$listen/p2p/$name\"],\"roles\":[]}" >"$dir/ready.new"
        mv "$dir/ready.new" "$dir/ready.json"
        if [ -e "$dir/../stubborn-$name" ]; then trap '' TERM; while :; do sleep 1; done; fi
        exec sleep 600 ;;
    invite) echo '{"invite":"fathom:test"}' ;;
    recover) read -r words; echo "$words" >"$dir/recovered"; echo '{}' ;;
    fat)
        list=
        for vendor in "$dir"/../vendor-*; do
            list="$list${list:+,}{\"vendor\":\"id-$(basename "$vendor")\",\"capacity\":1}"
        done
        echo "{\"vendors\":[$list]}" ;;
    status) echo '{"mirrors":[{"reachable":true},{"reachable":true},{"reachable":true}]}' ;;
    *) echo "no $command here" >&2; exit 2 ;;
esac
