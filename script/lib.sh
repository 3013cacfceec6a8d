# shellcheck shell=bash
# What the scripts share: where the project is, its packages, its virtual environment, steps with their times.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$top/.venv
live=0
[ -t 1 ] && live=1

# step WORDS COMMAND...: runs the command, shows the words and the time it took; its output only when it fails.
step() {
    local words=$1 log begin end code=0
    shift
    log=$(mktemp)
    begin=$(date +%s%N)
    if [ $live = 1 ]; then
        "$@" >"$log" 2>&1 </dev/null &
        local job=$!
        while kill -0 $job 2>/dev/null; do
            printf '\r  %-58s %6.1f s' "$words" "$(awk "BEGIN{print ($(date +%s%N)-$begin)/1e9}")"
            sleep 0.1
        done
        wait $job || code=$?
        printf '\r'
    else
        "$@" >"$log" 2>&1 </dev/null || code=$?
    fi
    end=$(date +%s%N)
    local mark='ok'
    [ $code = 0 ] || mark='FAILED'
    printf '  %-58s %6.1f s  %s\n' "$words" "$(awk "BEGIN{print ($end-$begin)/1e9}")" "$mark"
    if [ $code != 0 ]; then
        echo >&2
        tail -n 40 "$log" >&2
    fi
    rm -f "$log"
    return $code
}

# missing_packages FOR...: the packages that are not there, for everybody and for the purposes named.
missing_packages() {
    local wanted=" all $* " package shows purpose path found
    [ "$(id -u)" = 0 ] && wanted=" root$wanted"
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
    missing=$(echo $missing)
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ]; then
        echo "Some packages of the system are missing. Have root install them, then run this again:" >&2
        echo >&2
        echo "    apt-get install --no-install-recommends $missing" >&2
        exit 1
    fi
    step "system packages" install_packages $missing
}

install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q && apt-get install -q -y --no-install-recommends "$@"
}

# have_venv [EXTRA]: the virtual environment with the project and its dependencies, made anew only when they changed.
have_venv() {
    local extra=${1:-} wanted
    wanted=$(sha256sum "$top/pyproject.toml" | cut -d' ' -f1)
    if [ -x "$venv/bin/bocage" ] && grep -qs "^$wanted .*\b${extra:-run}\b" "$venv/bocage-installed"; then
        return 0
    fi
    [ -x "$venv/bin/python" ] || step "virtual environment" python3 -m venv "$venv"
    step "Python packages${extra:+ ($extra)}" "$venv/bin/python" -m pip install --quiet \
        --disable-pip-version-check --editable "$top${extra:+[$extra]}"
    echo "$wanted run $extra" >"$venv/bocage-installed"
}
