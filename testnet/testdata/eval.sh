#!/bin/sh
# Stand-in for the node's binary: evaluates its last argument.
for last; do :; done
eval "$last"
