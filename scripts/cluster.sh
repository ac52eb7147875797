#!/bin/sh
# Three gateways on one log, behind nginx that deals requests out in turn, all on this machine and in a
# folder of their own under target/cluster: to look at what several nodes do. ENGINE is where the
# log is, redis (the default) or nats; PORT is nginx's, 8080. Ends with Ctrl-C, and takes everything with it.
set -eu
cd "$(dirname "$0")/.."
ENGINE="${ENGINE:-redis}"
PORT="${PORT:-8080}"
PATH="$PATH:/usr/sbin:/sbin"

fail() {
    echo "$*" >&2
    exit 1
}

case "$ENGINE" in
    redis | nats) server="$ENGINE-server" ;;
    *) fail "there is no ENGINE $ENGINE here: use redis or nats" ;;
esac
for program in "$server:$server" "nginx:nginx-light"; do
    command -v "${program%%:*}" >/dev/null && continue
    command -v apt-get >/dev/null || fail "make cluster needs ${program%%:*}: install it with your package manager"
    as_root=""
    [ "$(id -u)" -eq 0 ] || as_root="sudo"
    echo "installing ${program##*:}"
    $as_root apt-get install -y -q --no-install-recommends "${program##*:}" >/dev/null
done

# The gateway that is given, or the one that is built here.
TRIBUS="${TRIBUS_BIN:-}"
if [ -z "$TRIBUS" ]; then
    "${CARGO:-cargo}" build --release
    TRIBUS="${CARGO_TARGET_DIR:-target}/release/tribus"
fi

folder=$(pwd)/target/cluster
rm -rf "$folder"
mkdir -p "$folder"
processes=""
stop() {
    trap - EXIT INT TERM
    # shellcheck disable=SC2086
    [ -z "$processes" ] || kill $processes 2>/dev/null || true
    wait
}
trap stop EXIT
trap 'exit 0' INT TERM

# Until a program has said something in its file, or has ended.
await() {
    tries=0
    until grep -q "$3" "$2" 2>/dev/null; do
        kill -0 "$1" 2>/dev/null || fail "$(cat "$2")"
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] || fail "waited in vain for \"$3\" in $2"
        sleep 0.1
    done
}

# The first port from a number on that the server can have.
start_redis() {
    port=26379
    while :; do
        redis-server --bind 127.0.0.1 --port "$port" --dir "$folder" --save "" --appendonly yes \
            --appendfsync everysec --maxmemory-policy noeviction --logfile "" >"$folder/redis.log" 2>&1 &
        redis=$!
        tries=0
        until grep -q "Ready to accept connections" "$folder/redis.log"; do
            kill -0 "$redis" 2>/dev/null || break
            tries=$((tries + 1))
            [ "$tries" -lt 100 ] || fail "$(cat "$folder/redis.log")"
            sleep 0.1
        done
        if kill -0 "$redis" 2>/dev/null; then
            processes="$processes $redis"
            export TRIBUS__BUS__REDIS__URL="redis://127.0.0.1:$port"
            return
        fi
        grep -qi "address already in use" "$folder/redis.log" || fail "$(cat "$folder/redis.log")"
        port=$((port + 1))
    done
}

# It finds a port for itself, and tells which.
start_nats() {
    nats-server --jetstream --store_dir "$folder/nats" --addr 127.0.0.1 --port -1 \
        >"$folder/nats.log" 2>&1 &
    processes="$processes $!"
    await $! "$folder/nats.log" "Server is ready"
    address=$(sed -n 's/.*Listening for client connections on \([^ ]*\).*/\1/p' "$folder/nats.log")
    export TRIBUS__BUS__NATS__URL="nats://$address"
}
"start_$ENGINE"

TRIBUS__AUTH__HS256_SECRET=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export TRIBUS__AUTH__HS256_SECRET
export TRIBUS__BUS__ENGINE="$ENGINE" TRIBUS__LOG__FORMAT=text
export TRIBUS__TRUSTED_PROXIES='["127.0.0.1"]'
export TRIBUS__PRESENCE__TOPICS='["room:*"]'

# Each takes ports of its own, and tells which.
upstream=""
admin=""
for node in a b c; do
    TRIBUS__NODE="$node" "$TRIBUS" serve --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 \
        >"$folder/$node.log" 2>&1 &
    processes="$processes $!"
    await $! "$folder/$node.log" "listening"
    line=$(grep -m 1 "listening" "$folder/$node.log" | sed 's/\x1b\[[0-9;]*m//g')
    address=$(echo "$line" | sed -n 's/.* address=\([^ ]*\).*/\1/p')
    operators=$(echo "$line" | sed -n 's/.* admin=\([^ ]*\).*/\1/p')
    [ -n "$address" ] || fail "node $node does not tell its address: $line"
    upstream="$upstream server $address;"
    admin="$admin
    $node   http://$address   operators: http://$operators   log: target/cluster/$node.log"
done

# Where one node can not be reached, the next one answers: a cursor is good at each.
cat >"$folder/nginx.conf" <<CONF
daemon off;
pid $folder/nginx.pid;
error_log stderr warn;
worker_processes 1;
events { worker_connections 4096; }
http {
    access_log off;
    client_body_temp_path $folder/body;
    proxy_temp_path $folder/proxy;
    fastcgi_temp_path $folder/fastcgi;
    uwsgi_temp_path $folder/uwsgi;
    scgi_temp_path $folder/scgi;
    map \$http_upgrade \$connection_upgrade {
        default upgrade;
        ''      '';
    }
    upstream tribus {
       $upstream
        keepalive 64;
        keepalive_timeout 4s;
    }
    server {
        listen 127.0.0.1:$PORT;
        large_client_header_buffers 4 32k;
        client_max_body_size 1m;
        location / {
            proxy_pass http://tribus;
            proxy_http_version 1.1;
            proxy_set_header Host \$http_host;
            proxy_set_header X-Forwarded-For \$remote_addr;
            proxy_set_header Upgrade \$http_upgrade;
            proxy_set_header Connection \$connection_upgrade;
            proxy_buffering off;
            proxy_read_timeout 90s;
            proxy_send_timeout 90s;
        }
    }
}
CONF
nginx -c "$folder/nginx.conf" -e stderr >"$folder/nginx.log" 2>&1 &
nginx=$!
processes="$processes $nginx"
sleep 0.5
kill -0 "$nginx" 2>/dev/null || fail "$(cat "$folder/nginx.log")
nginx did not start: where port $PORT is taken, PORT=9000 make cluster"

token=$("$TRIBUS" token --sub demo --subscribe '**' --publish '**' --stats --ttl 12h)
cat <<TEXT

Three nodes, one log in $ENGINE:
$admin

  Open in a browser; the page tells which node serves what:

    http://127.0.0.1:$PORT/#token=$token

  Or in another terminal:

    export TRIBUS_URL=http://127.0.0.1:$PORT
    export TRIBUS_TOKEN=$token

  Stop a node and see what happens, for example: kill $(echo "$processes" | cut -d ' ' -f 3)
  Ctrl-C ends everything.
TEXT
wait "$nginx" || true
