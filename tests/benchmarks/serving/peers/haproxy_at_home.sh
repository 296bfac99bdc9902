#!/bin/sh
# HAProxy as Ray starts it, `haproxy -db -f FILE ...`, but listening on 127.0.0.1 alone: in what Ray writes into
# FILE its own figures are for the whole network.
sed -i -E 's/^( *bind )\*?:/\1127.0.0.1:/' "$3"
exec "$HAPROXY_BINARY" "$@"
