#!/usr/bin/env bash
# Builds the image on a bare Debian and runs it, without Docker: as itself, and as docker/compose.yaml
# has it, with a network of its own for each service. For Debian or Ubuntu, as root; it installs
# buildah, debootstrap and docker-compose where they are missing, and needs 35 GB of disk.
#
#   docker/check.sh          # removes what it made
#   KEEP=1 docker/check.sh   # leaves the folder that it tells
set -euo pipefail
cd "$(dirname "$0")/.."

IMAGE=localhost/gam-ray
BASE=localhost/debian
NETWORK=10.77.0
BEGAN=${BEGAN:-$(date +%s)}

step() { printf '\n[%4d s] %s\n' $(($(date +%s) - BEGAN)) "$*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }
b() { buildah --root "$WORK/storage" --runroot "$WORK/run" "$@"; }

# Building

install_tools() {
    local missing=()
    for tool in buildah debootstrap docker-compose ip:iproute2 jq; do
        command -v "${tool%:*}" > /dev/null || missing+=("${tool#*:}")
    done
    [ ${#missing[@]} -eq 0 ] && return
    step "installing ${missing[*]}"
    apt-get update --quiet=2
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --no-install-recommends \
        "${missing[@]}" > /dev/null
}

# The registries are reached as this machine does; the image learns nothing of it.
write_pip_config() {
    local name value
    echo '[global]'
    echo 'cert = /etc/ssl/certs/ca-certificates.crt'
    for name in index-url extra-index-url trusted-host; do
        value=$(python3 -m pip config get "global.$name" 2> /dev/null || true)
        case $value in '' | *file:*) ;; *) echo "$name = $value" ;; esac
    done
}

build_base() {
    local suite mirror container
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    mirror=$(apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk -v suite="$suite" '$1 == suite && $2 == "main" { print $3; exit }')
    container=$(b from scratch)
    # With certificates: those of this machine are laid over them while the image is built.
    debootstrap --variant=minbase --include=ca-certificates "$suite" "$(b mount "$container")" "$mirror" \
        > "$WORK/debootstrap.log" 2>&1 || { tail "$WORK/debootstrap.log"; fail "debootstrap"; }
    b commit --quiet --rm "$container" "$BASE" > /dev/null
}

build() {
    write_pip_config > "$WORK/pip.conf"
    b bud --isolation chroot --format docker --file docker/Dockerfile --tag "$IMAGE" \
        --build-arg BASE_IMAGE="$BASE" \
        --build-arg REVISION="$(git rev-parse HEAD 2> /dev/null || echo unknown)" \
        --volume /etc/ssl/certs:/etc/ssl/certs:ro --volume "$WORK/pip.conf:/etc/pip.conf:ro" \
        . > "$WORK/build.log" 2>&1 || { tail -n 30 "$WORK/build.log"; fail "the build"; }
}

# Running

# A program in a container of the image, as its user. Here tini is not the first process (-s).
in_container() { b run --isolation chroot "$1" -- tini -s -g -- "${@:2}"; }

check_alone() {
    local container
    container=$(b from "$IMAGE")
    step "the image alone"
    [ "$(in_container "$container" id -u)" = 1000 ] || fail "the image does not run as user 1000"
    in_container "$container" gam-ray --version
    in_container "$container" gam-ray doctor || fail "gam-ray doctor"
    step "the quickstart in it"
    in_container "$container" gam-ray run jobs/quickstart.yaml > "$WORK/quickstart.log" 2>&1 ||
        { tail -n 30 "$WORK/quickstart.log"; fail "the quickstart"; }
    in_container "$container" gam-ray best quickstart
    b rm "$container" > /dev/null
}

# What Compose makes of the file, for the small form.
resolve_compose() {
    local line
    (umask 077 && while IFS= read -r line; do
        case $line in *=) line+=$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n') ;; esac
        echo "$line"
    done < docker/env.example > "$WORK/env")
    COMPOSE_PROFILES=small docker-compose --file docker/compose.yaml --env-file "$WORK/env" config \
        > "$WORK/compose.yaml"
    local reader
    reader=$(b from "$IMAGE")
    in_container "$reader" python -c \
        'import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)' \
        < "$WORK/compose.yaml" > "$WORK/compose.json"
    b rm "$reader" > /dev/null
}

of_service() { jq --raw-output ".services[\"$1\"]$2" "$WORK/compose.json"; }

make_network() {
    mkdir -p /run/netns
    mount -t tmpfs none /run/netns
    ip link add bridge0 type bridge
    ip address add $NETWORK.1/24 dev bridge0
    ip link set bridge0 up
}

join_network() {
    local name=$1 number=$2
    ip netns add "$name"
    ip link add "veth$number" type veth peer name eth0 netns "$name"
    ip link set "veth$number" master bridge0 up
    ip -n "$name" address add "$NETWORK.$number/24" dev eth0
    ip -n "$name" link set lo up
    ip -n "$name" link set eth0 up
    ip -n "$name" route add default via $NETWORK.1
}

# Nobody answers questions for names here: the refusal is to come at once.
make_container() {
    local name=$1 options=()
    b from --name "$name" --dns 127.0.0.1 --add-host head:$NETWORK.2 --add-host mlflow:$NETWORK.4 \
        "$IMAGE" > /dev/null
    mapfile -t options < <(of_service "$name" '.environment // {} | to_entries[] | "--env=\(.key)=\(.value)"')
    [ ${#options[@]} -eq 0 ] || b config "${options[@]}" "$name"
}

in_service() {
    local name=$1 volume folder options=()
    shift
    while IFS=: read -r volume folder _; do
        [ "$volume" ] && options+=(--volume "$WORK/volumes/$volume:$folder")
    done < <(of_service "$name" '.volumes // [] | .[] | if type == "object" then "\(.source):\(.target)" else . end')
    nsenter --net="/run/netns/$name" buildah --root "$WORK/storage" --runroot "$WORK/run" run \
        --isolation chroot "${options[@]}" "$name" -- tini -s -g -- "$@"
}

# A node that a busy machine has not up in Ray's 30 s is started again, as Compose does.
start_service() {
    local name=$1 command
    mapfile -t command < <(of_service "$name" '.command[]')
    echo "$name: ${command[*]}"
    make_container "$name"
    for _ in 1 2 3; do
        in_service "$name" "${command[@]}" > "$WORK/$name.log" 2>&1 &
        pids[$name]=$!
        wait_until_well "$name" && return
        tail -n 5 "$WORK/$name.log"
    done
    fail "$name is not well"
}

wait_until_well() {
    local name=$1 check
    mapfile -t check < <(of_service "$name" '.healthcheck.test // [] | .[]')
    [ ${#check[@]} -gt 0 ] || mapfile -t check < \
        <(b inspect --type image "$IMAGE" | jq --raw-output '.Docker.config.Healthcheck.Test[]')
    if [ "${check[0]}" = CMD-SHELL ]; then check=(sh -c "${check[@]:1}"); else check=("${check[@]:1}"); fi
    for _ in $(seq 60); do
        kill -0 "${pids[$name]}" 2> /dev/null || return
        ! in_service "$name" "${check[@]}" > /dev/null 2>&1 || return 0
        sleep 2
    done
    return 1
}

# As Docker does: the first process is told, what is left after a while is killed, and what is not in
# a volume is gone.
stop_services() {
    local name pid
    for name in "$@"; do
        for pid in $(ip netns pids "$name"); do
            [ "$(cat "/proc/$pid/comm" 2> /dev/null)" != tini ] || kill "$pid"
        done
        for _ in $(seq 30); do
            [ "$(ip netns pids "$name")" ] || break
            sleep 1
        done
        for pid in $(ip netns pids "$name"); do kill -9 "$pid" 2> /dev/null || true; done
        wait "${pids[$name]}" 2> /dev/null || true
        b rm "$name" > /dev/null
    done
}

# Who submits is outside the services' networks, and has the token or not.
outside() {
    RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(. "$WORK/env" && echo "$RAY_AUTH_TOKEN") outside_without_token "$@"
}
outside_without_token() {
    b run --isolation chroot --env RAY_AUTH_MODE="${RAY_AUTH_MODE:-disabled}" \
        --env RAY_AUTH_TOKEN="${RAY_AUTH_TOKEN:-}" submitter -- gam-ray "$@"
}

runs_in_mlflow() {
    in_service worker python -c '
from collections import Counter
import mlflow
mlflow.set_tracking_uri("http://mlflow:5000")
found = mlflow.search_runs(search_all_experiments=True, output_format="list")
print(len(found), *(f"{count} {end}" for end, count in sorted(Counter(run.info.status for run in found).items())))'
}

check_compose() {
    local head=http://$NETWORK.2:8265 runs trials
    declare -gA pids=()
    resolve_compose
    make_network
    mkdir -p "$WORK"/volumes/{studies,data,mlflow}
    chown 1000 "$WORK"/volumes/*
    b from --name submitter "$IMAGE" > /dev/null
    join_network head 2
    join_network worker 3
    join_network mlflow-small 4

    step "the services of docker/compose.yaml, each in its own network"
    start_service mlflow-small
    start_service head
    start_service worker

    step "a study from outside, without and with the token"
    ! outside_without_token submit jobs/cluster.yaml --address $head > "$WORK/refused.log" 2>&1 ||
        fail "the cluster took a study without a token"
    grep 'wants a token' "$WORK/refused.log" || { cat "$WORK/refused.log"; fail "another error"; }
    outside doctor jobs/cluster.yaml --address $head --image-has-code || fail "the cluster's doctor"
    outside submit jobs/cluster.yaml --address $head --image-has-code --wait \
        > "$WORK/study.log" 2>&1 || { tail -n 30 "$WORK/study.log"; fail "the study"; }
    in_service head gam-ray best cluster-quickstart --storage /studies
    runs=$(runs_in_mlflow)
    trials=$(in_service head gam-ray status cluster-quickstart --storage /studies --json | jq '.trials | add')
    echo "runs in MLflow: $runs; the study has $trials trials"
    [ "${runs%% *}" = $((trials + 1)) ] || fail "a run for each trial and one for the study"
    case $runs in *RUNNING* | *SCHEDULED*) fail "some have not ended" ;; esac

    step "down and up again"
    stop_services worker head mlflow-small
    start_service mlflow-small
    start_service head
    start_service worker
    [ "$(runs_in_mlflow)" = "$runs" ] || fail "MLflow lost runs: $(runs_in_mlflow)"
    outside submit jobs/cluster.yaml --address $head --image-has-code --wait \
        > "$WORK/again.log" 2>&1 || { tail -n 30 "$WORK/again.log"; fail "the study again"; }
    [ "$(runs_in_mlflow)" = "$runs" ] || fail "the study ran twice: $(runs_in_mlflow)"
    stop_services worker head mlflow-small
}

clean_up() {
    local code=$?
    if [ "${KEEP:-}" ]; then echo "left in $WORK"; return; fi
    b rm --all > /dev/null 2>&1 || true
    b rmi --all --force > /dev/null 2>&1 || true
    rm -rf "$WORK"
    return $code
}

if [ "${1:-}" = --run ]; then # in namespaces of its own, which take all processes with them
    ip link set lo up
    check_alone
    check_compose
    exit
fi

[ "$(id -u)" = 0 ] || fail "this needs root, to make a Debian and networks"
WORK=$(mktemp --directory /var/tmp/gam-ray-check.XXXXXX)
mkdir "$WORK/tmp"
export WORK BEGAN TMPDIR=$WORK/tmp
trap clean_up EXIT
install_tools
step "a Debian to build on"
build_base
step "the image"
build
b images --format '{{.Name}} {{.Size}}' "$IMAGE"
unshare --mount --net --pid --fork --kill-child --mount-proc "$0" --run
step "passed"
