#!/bin/sh
exec /usr/lib/proa/bin/python3 -I /usr/lib/proa/proa "$@"
