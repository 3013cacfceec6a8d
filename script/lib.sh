# shellcheck shell=bash
# What the scripts share: where the project is, its packages, its virtual environment, steps with their times.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$top/.venv
live=0
[ -t 1 ] && [ "${TERM:-dumb}" != dumb ] && live=1

# step WORDS COMMAND...: runs the command, shows the words and the time it took; its output only when it fails.
step() {
    local words=$1 log begin code=0 job
    shift
    log=$(mktemp)
    begin=$(now)
    # a process group of its own, so that Ctrl-C reaches the command and all that it started, once and in order
    set -m
    "$@" >"$log" 2>&1 </dev/null &
    job=$!
    set +m
    # shellcheck disable=SC2064
    trap "interrupted $job '$log'" INT TERM HUP
    if [ $live = 1 ]; then
        while kill -0 $job 2>/dev/null; do
            printf '\r  %-56s %s' "$words" "$(since "$begin")"
            sleep 0.2
        done
        printf '\r'
    fi
    wait $job || code=$?
    trap - INT TERM HUP
    printf '  %-56s %s  %s\n' "$words" "$(since "$begin")" "$([ $code = 0 ] && echo ok || echo FAILED)"
    if [ $code != 0 ]; then
        echo >&2
        tail -n 40 "$log" >&2
    fi
    rm -f "$log"
    return $code
}

interrupted() {
    trap '' INT TERM HUP
    kill -INT -- "-$1" 2>/dev/null || true
    local left=50
    while kill -0 -- "-$1" 2>/dev/null && [ $left -gt 0 ]; do
        sleep 0.1
        left=$((left - 1))
    done
    kill -KILL -- "-$1" 2>/dev/null || true
    rm -f "$2"
    echo >&2
    echo "interrupted; the next run goes on from here" >&2
    exit 130
}

now() { echo "${EPOCHREALTIME/[.,]/}"; } # microseconds

# since BEGIN: the seconds since then, eight columns wide
since() {
    local tenths=$((($(now) - $1) / 100000))
    printf '%6s s' "$((tenths / 10)).$((tenths % 10))"
}

# say WORDS: a line for a person at a terminal; nothing else needs it.
say() { [ $live = 0 ] || echo "$@"; }

# packages_for PURPOSE...: the packages for everybody and for the purposes named.
packages_for() {
    local wanted=" all $* " package shows purpose
    while read -r package shows purpose; do
        case $package in '' | '#'*) continue ;; esac
        case $wanted in *" ${purpose:-all} "*) echo "$package" ;; esac
    done <"$top/script/packages"
}

# packages_only_for PURPOSE: those that nothing else needs.
packages_only_for() { packages_for "$1" | grep -vxF -f <(packages_for); }

# missing_packages FOR...: the packages that are not there, for everybody and for the purposes named.
missing_packages() {
    local wanted=" all $* " package shows purpose path found
    if [ "$(id -u)" = 0 ]; then wanted=" root$wanted"; else wanted=" user$wanted"; fi
    while read -r package shows purpose; do
        case $package in '' | '#'*) continue ;; esac
        case $wanted in *" ${purpose:-all} "*) ;; *) continue ;; esac
        found=0
        for path in ${shows//|/ }; do [ -e "$path" ] && found=1; done
        [ $found = 1 ] || echo "$package"
    done <"$top/script/packages"
}

# have_packages FOR...: installs what is missing, where root allows; else says the one line that does, and stops.
have_packages() {
    local missing
    missing=$(missing_packages "$@" | tr '\n' ' ')
    # a Python that can make environments needs no package for it
    if python3 -c 'import venv, ensurepip' 2>/dev/null; then
        missing=$(echo " $missing" | sed -E 's/ python3(-venv)? / /g; s/ python3-venv / /g')
    fi
    # shellcheck disable=SC2086,SC2116
    missing=$(echo $missing)
    if [ -n "$missing" ]; then
        if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
            echo "Some packages of the system are missing. Have root install them, then run this again:" >&2
            echo >&2
            echo "    apt-get install --no-install-recommends $missing" >&2
            exit 1
        fi
        # shellcheck disable=SC2086
        step "system packages" install_packages $missing
    fi
    if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "Python 3.11 or newer is needed; $(command -v python3) is $(python3 -V 2>&1)" >&2
        exit 1
    fi
}

install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    # Debian's etcd comes with a service of its own, on the very ports that the daemon's etcd listens on;
    # and the bench starts its peers itself
    mask etcd-server etcd "$@"
    mask pacemaker pacemaker "$@"
    mask corosync corosync "$@"
    apt-get update -q && apt-get install -q -y --no-install-recommends "$@"
}

# mask PACKAGE SERVICE PACKAGES...: when it is one of the packages, its service is not to be started.
mask() {
    local package=$1 unit=/etc/systemd/system/$2.service
    shift 2
    case " $* " in *" $package "*)
        [ -e "$unit" ] || [ -L "$unit" ] || { mkdir -p "${unit%/*}" && ln -s /dev/null "$unit"; } ;;
    esac
}

# have_venv [EXTRA]: the virtual environment with the project and its dependencies, made anew only when they changed,
# when it does not fit this Python any more, when it was moved, or when it was left half made.
have_venv() {
    local extra=${1:-} wanted lock
    # two runs from one checkout take turns
    exec {lock}<"$top/script"
    flock "$lock"
    wanted=$(sha256sum "$top/pyproject.toml" | cut -d' ' -f1)
    if ! grep -qs "^$wanted .*\b${extra:-run}\b" "$venv/bocage-installed" || ! venv_works bocage; then
        venv_works pip || step "virtual environment" python3 -m venv --clear "$venv"
        step "Python packages${extra:+ ($extra)}" "$venv/bin/python" -m pip install --quiet \
            --disable-pip-version-check --editable "$top${extra:+[$extra]}"
        echo "$wanted run $extra" >"$venv/bocage-installed"
    fi
    exec {lock}<&-
}

# venv_works MODULE: whether its Python finds the module, and its commands find its Python.
venv_works() {
    grep -qsF "$venv/bin/python" "$venv/bin/$1" && "$venv/bin/python" -c "import $1" 2>/dev/null
}
