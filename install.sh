#!/bin/sh
# Installs, upgrades, repairs and removes smtpproxy. `sh install.sh --help` says how.
#
# Nothing that is in force is changed before the new release has been built, has read the site's
# configuration and has spoken TLS. Then one symbolic link is exchanged, and back again where the
# service does not get ready. All of it is functions, and the last line calls: so it does no harm
# when this file is replaced while it runs.
set -eu
umask 022
unset PYTHONPATH PYTHONHOME || :

PYTHONS='3.13 3.12 3.11'
KEEP=3             # releases
ROOM=200           # MB that a release needs
USER_NAME=smtpproxy
UNIT=smtpproxy.service
OPT=/opt/smtpproxy # as it is known on the machine, without --root
DOCUMENTS=/usr/local/share/doc/smtpproxy

help() {
    cat <<'END'
Usage: sh install.sh [OPTION]...

Installs smtpproxy, or upgrades it. It needs Python 3.11, 3.12 or 3.13, and no network.
Doing it again does no harm.

  --dry-run     Try the new release with the site's configuration in a temporary folder, and
                say what would be done. Nothing is changed.
  --no-start    Do not start or restart the service.
  --root DIR    Install below DIR, as for the image of another machine.
  --repair      Build this release anew, as after an upgrade of the system to another Python.
  --rollback    Go back to the release before this one.
  --uninstall   Stop the service and remove the program. /etc/smtpproxy and
                /var/lib/smtpproxy stay, and the user.
  --purge       With --uninstall: remove those, too.
  -h, --help    This text.

/opt/smtpproxy/releases/VERSION    the program; /opt/smtpproxy/current is the one in force
/opt/smtpproxy/install.sh          this, for --repair, --rollback and --uninstall
/usr/local/share/doc/smtpproxy/    the documentation: docs/ of the source
/etc/smtpproxy/                    the configuration. An edited file is kept, and the new one
                                   put beside it, with .new behind its name.

Exit status: 0 done, 1 not done, 2 wrong use.
END
}

# Words.

say() { printf '%s\n' "$*"; }
warn() { printf 'install.sh: %s\n' "$*" >&2; }

fail() { # TEXT: what is wrong, and how things are now
    warn "$1"
    stands
    finished=yes
    exit 1
}

stands() {
    if [ "$dry" = yes ]; then
        warn 'Nothing was changed.'
    else
        warn "$state"
    fi
}

would() { # TEXT: true in a dry run, which says it
    [ "$dry" = yes ] || return 1
    say "would $1"
}

main() {
    action=install dry=no start=yes purge=no root='' finished=no
    state='Nothing was changed.'
    options "$@"
    opt=$root$OPT etc=$root/etc/smtpproxy units=$root/etc/systemd/system
    here=$(dirname "$(readlink -f "$0")")
    [ "$(id -u)" = 0 ] || [ -n "$root" ] || fail 'this has to be run by root, as in: sudo sh install.sh'
    trap ended EXIT
    trap 'warn "interrupted"; exit 1' HUP INT TERM
    lock
    in_force=$(named_by current)
    before=$(named_by previous)
    [ -z "$in_force" ] || state="In force is $in_force, as before. The service was not touched."
    case $action in
        install) install_release ;;
        repair) repair ;;
        rollback) rollback ;;
        uninstall) uninstall ;;
    esac
    finished=yes
}

options() {
    while [ $# -gt 0 ]; do
        case $1 in
            --dry-run) dry=yes ;;
            --no-start) start=no ;;
            --repair | --rollback | --uninstall)
                [ "$action" = install ] || misused "$1 and --$action cannot be done at once"
                action=${1#--}
                ;;
            --purge) purge=yes ;;
            --root)
                [ $# -gt 1 ] || misused '--root needs a folder'
                shift
                [ -d "$1" ] || misused "--root $1: there is no such folder"
                root=$(readlink -f "$1")
                [ "$root" != / ] || root=''
                ;;
            -h | --help)
                help
                exit 0
                ;;
            *) misused "there is no option $1" ;;
        esac
        shift
    done
    [ "$purge" = no ] || [ "$action" = uninstall ] || misused '--purge is for --uninstall'
}

misused() {
    warn "$1; --help says what there is"
    exit 2
}

ended() { # however it ended: nothing half done lies about
    rm -rf "${scratch:-}"
    if [ "${locked:-no}" = yes ]; then
        rm -rf "$opt/releases/.building" "$opt/.lock"
        rmdir "$opt/releases" "$opt" 2>/dev/null || :
    fi
    [ "$finished" = yes ] || stands
}

lock() { # one at a time; the link holds the id of the process
    [ "$dry" = no ] || return 0
    mkdir -p "$opt/releases"
    if ! ln -s $$ "$opt/.lock" 2>/dev/null; then
        other=$(readlink "$opt/.lock" || :)
        if [ -n "$other" ] && kill -0 "$other" 2>/dev/null; then
            fail "another install.sh is at work (pid $other)"
        fi
        rm -f "$opt/.lock"
        ln -s $$ "$opt/.lock"
    fi
    locked=yes
}

named_by() { # LINK: the release that it points at
    link=$(readlink "$opt/$1") || return 0
    say "${link##*/}"
}

# Installing.

install_release() {
    examine_machine
    examine_bundle
    make_user
    build_release
    try_release "$tried" strict
    decide_start
    if [ "$begin" = yes ]; then
        examine_ports "$tried"
    fi
    if [ "$dry" = yes ]; then
        foretell
        return
    fi
    activate "$name" "$in_force"
    go
    prune
}

repair() {
    examine_machine
    examine_bundle
    if [ -n "$in_force" ] && [ "$name" != "$in_force" ]; then
        fail "in force is $in_force, and this is install.sh of $name. To repair: $OPT/install.sh --repair"
    fi
    would "build $name anew" && return
    make_user
    anew=yes
    build_release
    state="$name was built anew. The service was not touched."
    try_release "$tried" lenient
    decide_start
    activate "$name" "$in_force"
    go
}

examine_machine() {
    python=''
    for each in python3 python3.13 python3.12 python3.11; do
        found=$(command -v "$each") || continue
        number=$("$found" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])') || continue
        case " $PYTHONS " in
            *" $number "*)
                python=$found
                break
                ;;
        esac
        wrong="$found is Python $number; "
    done
    [ -n "$python" ] || fail "${wrong:-}Python 3.11, 3.12 or 3.13 is needed, as by: apt-get install python3"
    "$python" -I -c 'import ctypes, ssl, venv, zlib' 2>/dev/null ||
        fail "$python lacks parts of Python's own library, as by: apt-get install python3"
    machine=$(uname -m)
    case $machine in
        x86_64 | aarch64) ;;
        *) fail "there is nothing here for the processor $machine, but for x86_64 and aarch64" ;;
    esac
    "$python" -I -c 'import os; os.confstr("CS_GNU_LIBC_VERSION")' 2>/dev/null ||
        fail 'this system has another C library than glibc (Alpine has), and there is nothing here for it'
    free=$(df -Pk "$(existing "$opt")" | awk 'NR == 2 { print int($4 / 1024) }')
    [ "$free" -ge "$ROOM" ] || fail "$OPT has room for $free MB, and a release needs $ROOM"
}

existing() { # FOLDER: it, or the nearest above it that exists
    folder=$1
    while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
    say "$folder"
}

examine_bundle() {
    for each in VERSION SHA256SUMS requirements.txt wheels host etc; do
        [ -e "$here/$each" ] || fail "$here/$each is missing: unpack the whole tarball, and run install.sh there"
    done
    differ=$(cd "$here" && sha256sum -c SHA256SUMS 2>/dev/null | sed '/: OK$/d') || :
    [ -z "$differ" ] || fail "not as it was made: $differ. Copy the tarball anew."
    version=$(cat "$here/VERSION")
    name=$version
    case $here in
        "$opt"/releases/*/bundle)
            name=${here%/bundle}
            name=${name##*/}
            return
            ;;
    esac
    # The same version, made anew, is a release of its own: the old one can be gone back to.
    if [ -d "$opt/releases/$name" ] && ! cmp -s "$here/SHA256SUMS" "$opt/releases/$name/bundle/SHA256SUMS"; then
        name=$version-$(sha256sum <"$here/SHA256SUMS" | cut -c 1-8)
    fi
}

make_user() {
    service_user=''
    if grep -qs "^$USER_NAME:" "$root/etc/passwd" || { [ -z "$root" ] && id "$USER_NAME" >/dev/null 2>&1; }; then
        [ -n "$root" ] || service_user=$USER_NAME
        return
    fi
    would "make the system user $USER_NAME" && return
    if [ "$(id -u)" != 0 ] || [ ! -e "$root/etc/passwd" ]; then
        warn "the user $USER_NAME is not made below $root: it has to be there before smtpproxy starts"
        return
    fi
    set -- --system --user-group --no-create-home --home-dir /var/lib/smtpproxy --shell /usr/sbin/nologin
    [ -z "$root" ] || set -- --prefix "$root" "$@"
    useradd "$@" "$USER_NAME" || fail "the user $USER_NAME cannot be made: make it, and run this again"
    say "made the system user $USER_NAME"
    [ -n "$root" ] || service_user=$USER_NAME
}

build_release() { # $tried becomes the folder to try it in
    tried=$opt/releases/$name
    if [ "${anew:-no}" = no ] && whole "$tried"; then
        say "$name is built already"
        return
    fi
    say "building $name with $python"
    if [ "$dry" = yes ]; then
        scratch=$(mktemp -d)
        chmod 755 "$scratch"
        tried=$scratch/$name
        build "$tried" "$tried"
        return
    fi
    build "$opt/releases/.building" "$OPT/releases/$name"
    built=yes
    rm -rf "$opt/releases/.old"
    [ ! -e "$tried" ] || mv "$tried" "$opt/releases/.old"
    mv "$opt/releases/.building" "$tried"
    rm -rf "$opt/releases/.old"
}

whole() { # FOLDER: whether what was built there runs; not so once its Python is gone
    "$1/bin/python" -I -c 'import smtpproxy, twisted' 2>/dev/null
}

build() { # FOLDER KNOWN: a release in FOLDER, which will be known as KNOWN
    rm -rf "$1"
    mkdir -p "$1"
    "$python" -I -m venv --without-pip "$1" || fail 'the release cannot be built'
    # Debian has pip apart from Python. It runs from its wheel, too.
    PIP_CONFIG_FILE=/dev/null "$1/bin/python" -I "$(echo "$here"/wheels/pip-*.whl)/pip" --isolated \
        --disable-pip-version-check --quiet install --no-cache-dir --no-index \
        --find-links "$here/wheels" --require-hashes --requirement "$here/requirements.txt" ||
        fail 'the release cannot be built'
    rm -f "$1"/bin/activate* "$1"/bin/Activate*
    for each in "$1"/bin/* "$1/pyvenv.cfg"; do
        if [ -f "$each" ] && [ ! -L "$each" ]; then
            sed "s|$1|$2|g" "$each" >"$1/rewritten"
            cat "$1/rewritten" >"$each"
        fi
    done
    rm -f "$1/rewritten"
    # Twisted's list of plugins: the service may not write it.
    "$1/bin/python" -I -c 'from twisted.plugin import IPlugin, getPlugins; list(getPlugins(IPlugin))' ||
        fail 'the release cannot be built'
    cp -R "$here" "$1/bundle"
    chmod -R u=rwX,go=rX "$1"
}

# Trying.

try_release() { # FOLDER strict|lenient
    config=$(configuration "$1")
    if ! said=$(as_service "$1" -m smtpproxy check --config "$config" 2>&1); then
        say "$said"
        trouble "$2" "$name does not accept $config (above). Where a file cannot be read: the user $USER_NAME has to be allowed to"
    fi
    if ! said=$(as_service "$1" "$1/bundle/host/smoke.py" "$config" 2>&1); then
        say "$said"
        trouble "$2" "$name does not take mail by TLS on this machine (above)"
    fi
    say "$said"
}

trouble() { # strict|lenient TEXT
    if [ "$1" = strict ]; then
        fail "$2. It was not switched to."
    fi
    warn "$2"
}

configuration() { # FOLDER: what the release there will read
    if is_example; then
        say "$1/bundle/etc/smtpproxy.toml"
    else
        say "$etc/smtpproxy.toml"
    fi
}

is_example() { # whether nobody has configured anything yet
    [ -e "$etc/smtpproxy.toml" ] || return 0
    ! grep -qs '^[[:space:]]*SMTPPROXY_' "$etc/environment" || return 1
    [ -n "$in_force" ] &&
        cmp -s "$opt/releases/$in_force/bundle/etc/smtpproxy.toml" "$etc/smtpproxy.toml" &&
        cmp -s "$opt/releases/$in_force/bundle/etc/mapping.csv" "$etc/mapping.csv"
}

as_service() { # FOLDER ARGUMENT...: the Python of that release, run as the service is
    as_user "$service_user" "$@"
}

as_user() { # USER FOLDER ARGUMENT...
    user=$1 interpreter=$2/bin/python starter=$2/bundle/host/service_user.py
    shift 2
    "$interpreter" -I "$starter" "$user" "$etc/environment" "$interpreter" -I "$@"
}

held_ports() { # FOLDER CONFIG: says who holds a port that we want; only root can see all of them
    ! as_user '' "$1" "$1/bundle/host/ports.py" "$2" "$OPT"
}

examine_ports() { # FOLDER
    if said=$(held_ports "$1" "$etc/smtpproxy.toml"); then
        warn "$said"
        fail 'smtpproxy cannot listen there. Stop what does, if it is not needed, or change where it listens in /etc/smtpproxy/smtpproxy.toml. Then run this again.'
    fi
}

# Switching.

decide_start() { # $begin: whether the service is to be started or restarted, and $why it is not
    begin=no why=''
    if is_example; then
        why=example
    elif ! has_systemd; then
        why=by-hand
    elif [ "$start" = no ]; then
        why='The service was left alone (--no-start). To start what is in force now: systemctl restart smtpproxy'
    elif [ "$name" = "$in_force" ] && [ "${built:-no}" = no ] && runs_now "$name"; then
        why="smtpproxy $name runs already, and goes on."
    elif [ -z "$in_force" ] || used smtpproxy.service || used smtpproxy.socket; then
        begin=yes
    else
        why='The service is disabled, and was not started: systemctl enable --now smtpproxy'
    fi
}

has_systemd() { # and it is that of the system which is installed to
    command -v systemctl >/dev/null && [ -d "$root/run/systemd/system" ] || return 1
    # shellcheck disable=SC3013  # -ef is in POSIX since 2024, and was in all shells before
    [ -z "$root" ] || [ ! "$root/run/systemd/system" -ef /run/systemd/system ]
}

used() { # UNIT
    systemctl is-active --quiet "$1" || systemctl is-enabled --quiet "$1" 2>/dev/null
}

runs_now() { # NAME: whether the service is that release
    pid=$(systemctl show --property=MainPID --value "$UNIT" 2>/dev/null) || return 1
    grep -qs "$OPT/releases/$1/" "/proc/$pid/cmdline"
}

activate() { # NAME OLD: NAME is in force from here on
    put_files "$opt/releases/$1/bundle" "$opt/releases/$2/bundle"
    if [ -n "$2" ] && [ "$2" != "$1" ]; then
        point previous "releases/$2"
    fi
    point current "releases/$1"
    point install.sh current/bundle/install.sh
    state="In force is $1. systemctl status smtpproxy says whether it runs. Run this again."
    [ "$1" = "$2" ] || say "in force: $1${2:+, before: $2}"
}

point() { # LINK TARGET: in one step, so that there is always one or the other
    rm -f "$opt/.link"
    ln -s "$2" "$opt/.link"
    exchange "$opt/.link" "$opt/$1"
}

exchange() { # FROM TO: mv would move into a folder that TO points at
    "$(a_python)" -I -c 'import os, sys; os.replace(sys.argv[1], sys.argv[2])' "$1" "$2"
}

a_python() {
    if [ -n "${python:-}" ]; then say "$python"; else say "$opt/releases/$in_force/bin/python"; fi
}

put_files() { # BUNDLE OLD
    mkdir -p "$etc" "$root/var/lib/smtpproxy"
    own "$etc" 750 "root:$USER_NAME"
    own "$root/var/lib/smtpproxy" 750 "$USER_NAME:$USER_NAME"
    if [ ! -e "$etc/smtpproxy.toml" ] || [ -e "$etc/mapping.csv" ]; then
        put "$1" "$2" etc/mapping.csv "$etc/mapping.csv" 640 quiet
    fi
    put "$1" "$2" etc/mysql-schema.sql "$etc/mysql-schema.sql" 640 quiet
    put "$1" "$2" etc/smtpproxy.toml "$etc/smtpproxy.toml" 640
    if [ -d "$root/lib/systemd" ] || [ -d "$root/usr/lib/systemd" ] || has_systemd; then
        mkdir -p "$units"
        for each in smtpproxy.service smtpproxy.socket; do
            put "$1" "$2" "etc/systemd/$each" "$units/$each" 644
        done
    fi
    put_manuals "$1"
    put_documents
    put_command
}

put() { # BUNDLE OLD NAME FILE MODE [quiet]: unless FILE was edited since it was put from OLD
    if [ -e "$4" ]; then
        if cmp -s "$1/$3" "$4"; then
            rm -f "$4.new"
            return
        elif [ -e "$2/$3" ] && cmp -s "$1/$3" "$2/$3"; then
            return # edited, and nothing new
        elif [ ! -e "$2/$3" ] || ! cmp -s "$2/$3" "$4"; then
            [ "${6:-}" != quiet ] || return 0
            write "$1/$3" "$4.new" "$5"
            say "$4 was edited, and is kept: the new one is $4.new"
            return
        fi
    fi
    write "$1/$3" "$4" "$5"
}

write() { # FROM TO MODE
    cp "$1" "$2.part"
    case $2 in
        "$etc"/*) own "$2.part" "$3" "root:$USER_NAME" ;;
        *) own "$2.part" "$3" root:root ;;
    esac
    mv "$2.part" "$2"
}

own() { # FILE MODE OWNER:GROUP; the numbers are those of the system that is installed to
    chmod "$2" "$1"
    [ "$(id -u)" = 0 ] || return 0
    user=$(number passwd "${3%:*}")
    group=$(number group "${3#*:}")
    [ -z "$user" ] || [ -z "$group" ] || chown "$user:$group" "$1"
}

number() { # passwd|group NAME
    sed -n "s/^$2:[^:]*:\([0-9]*\):.*/\1/p" "$root/etc/$1" 2>/dev/null || :
}

put_manuals() { # BUNDLE
    for each in "$1"/man/*; do
        [ -f "$each" ] || continue
        folder=$root/usr/local/share/man/man${each##*.}
        mkdir -p "$folder"
        cp "$each" "$folder/"
    done
}

put_documents() {
    documents=$root$DOCUMENTS
    if { [ -e "$documents" ] || [ -L "$documents" ]; } && ! our_documents; then
        warn "$documents is somebody else's, and is kept: ours is $OPT/current/bundle/docs"
        return
    fi
    mkdir -p "${documents%/*}"
    ln -sfn "$OPT/current/bundle/docs" "$documents"
}

our_documents() {
    [ "$(readlink "$root$DOCUMENTS" || :)" = "$OPT/current/bundle/docs" ]
}

put_command() {
    command=$root/usr/local/bin/smtpproxy
    if [ -e "$command" ] && ! our_command "$command"; then
        warn "$command is somebody else's, and is kept: ours is $OPT/current/bin/smtpproxy"
        return
    fi
    mkdir -p "$root/usr/local/bin"
    ln -sf "$OPT/current/bin/smtpproxy" "$command"
}

our_command() { # FILE
    [ "$(readlink "$1" || :)" = "$OPT/current/bin/smtpproxy" ]
}

# The service.

go() { # start what is in force, or say why not; back to what was where it does not get ready
    if [ "$begin" = no ]; then
        has_systemd && systemctl daemon-reload
        explain
        return
    fi
    if ready; then
        say "smtpproxy $name runs"
        return
    fi
    said_last
    if [ -z "$in_force" ] || [ "$in_force" = "$name" ]; then
        systemctl stop "$UNIT" || :
        fail "$name did not get ready (above), and there is nothing to go back to: the service is stopped. journalctl -u smtpproxy says more."
    fi
    go_back
}

ready() { # systemd waits for the word of the program, TimeoutStartSec of the unit
    systemctl daemon-reload || return 1
    [ "$action" = rollback ] || systemctl is-enabled --quiet "$UNIT" 2>/dev/null || [ -n "$in_force" ] ||
        systemctl enable --quiet "$UNIT" || return 1
    say "starting $(named_by current)"
    systemctl restart "$UNIT" && systemctl is-active --quiet "$UNIT"
}

said_last() {
    journalctl --quiet --no-pager --output=cat --lines=15 --unit="$UNIT" 2>/dev/null || :
}

go_back() {
    failed=$name
    warn "$failed did not get ready (above): going back to $in_force"
    put_files "$opt/releases/$in_force/bundle" "$opt/releases/$failed/bundle"
    point current "releases/$in_force"
    if [ -n "$before" ]; then point previous "releases/$before"; else rm -f "$opt/previous"; fi
    if ready; then
        state="In force is $in_force again, and it runs. $failed is kept in $OPT/releases."
        fail "$failed did not get ready, and was switched back from. journalctl -u smtpproxy says more"
    fi
    said_last
    state="In force is $in_force, as before. NO MAIL IS TAKEN NOW."
    fail "$failed did not get ready, and neither did $in_force, which ran before (above): what both need is missing. journalctl -u smtpproxy says more"
}

explain() {
    case $why in
        example) first_steps ;;
        by-hand) ;;
        *) say "$why" ;;
    esac
    has_systemd || [ -n "$root" ] || by_hand
}

first_steps() {
    cat <<END
smtpproxy is installed, and not started: nobody has configured it yet. Now:
  1. edit $etc/smtpproxy.toml and $etc/mapping.csv
  2. smtpproxy check
END
    if has_systemd; then
        say '  3. systemctl enable --now smtpproxy'
    fi
    say "What all of it means is in $root$DOCUMENTS: begin with first-ten-minutes.md"
    if said=$(held_ports "$tried" "$etc/smtpproxy.toml"); then
        warn "$said"
        warn 'Only one program can have a port: that one, or smtpproxy.'
    fi
}

by_hand() {
    cat <<END
systemd does not run here. To start smtpproxy by hand, in the foreground:
  mkdir -p /run/smtpproxy && chown $USER_NAME: /run/smtpproxy
  $OPT/current/bin/twistd -n --pidfile= --uid=$USER_NAME --gid=$USER_NAME smtpproxy
What runs already goes on as it was until you restart it.
END
}

prune() { # the oldest beyond KEEP; never one that is linked to, or that a process still runs from
    kept=0
    current=$(named_by current) previous=$(named_by previous)
    for each in "$current" "$previous" $(ls -1t "$opt/releases"); do
        [ -n "$each" ] || continue
        case " ${seen:-} " in *" $each "*) continue ;; esac
        seen="${seen:-} $each"
        kept=$((kept + 1))
        [ "$kept" -gt "$KEEP" ] || continue
        if ! runs_from "$OPT/releases/$each/"; then
            rm -rf "$opt/releases/$each"
            say "removed the old release $each"
        fi
    done
}

runs_from() { # FOLDER
    grep -qs "$1" /proc/[0-9]*/cmdline
}

foretell() {
    [ "$name" = "$in_force" ] || say "would switch from ${in_force:-nothing} to $name"
    if [ "$begin" = yes ]; then say 'would restart the service'; fi
    say 'Nothing was changed.'
}

# Going back.

rollback() {
    [ -n "$before" ] || fail 'there is no release to go back to'
    [ -d "$opt/releases/$before" ] || fail "the release before, $before, is gone"
    if ! whole "$opt/releases/$before"; then
        fail "$before cannot be run, since its Python is gone. Run this: sh $OPT/releases/$before/bundle/install.sh"
    fi
    would "go back from $in_force to $before" && return
    name=$before tried=$opt/releases/$before
    python=$opt/releases/$name/bin/python
    make_user
    try_release "$tried" lenient
    decide_start
    activate "$name" "$in_force"
    go
}

# Removing.

uninstall() {
    if [ -z "$in_force" ] && [ ! -e "$units/$UNIT" ] && [ "$purge" = no ]; then
        say 'smtpproxy is not installed'
        return
    fi
    would "stop the service, and remove $OPT, the units, the manual pages, the documentation and the command" && {
        [ "$purge" = no ] || would "remove $etc, /var/lib/smtpproxy, /var/log/smtpproxy and the user $USER_NAME"
        return
    }
    if has_systemd && [ -e "$units/$UNIT" ]; then
        for each in smtpproxy.socket "$UNIT"; do
            [ ! -e "$units/$each" ] || systemctl disable --now --quiet "$each" ||
                fail "$each cannot be stopped"
        done
    elif [ -z "$root" ] && runs_from "$OPT/releases/"; then
        fail 'smtpproxy runs, and systemd does not know of it: stop it first'
    fi
    state='It is removed in part: run this again.'
    for each in "$opt"/releases/*/bundle/man/*; do
        rm -f "$root/usr/local/share/man/man${each##*.}/${each##*/}"
    done
    rm -f "$units/smtpproxy.service" "$units/smtpproxy.service.new"
    rm -f "$units/smtpproxy.socket" "$units/smtpproxy.socket.new"
    if has_systemd; then systemctl daemon-reload; fi
    ! our_documents || rm -f "$root$DOCUMENTS"
    ! our_command "$root/usr/local/bin/smtpproxy" || rm -f "$root/usr/local/bin/smtpproxy"
    rm -rf "$opt"
    locked=no
    if [ "$purge" = no ]; then
        say "smtpproxy is removed. $etc and $root/var/lib/smtpproxy are kept, and the user: --uninstall --purge removes them"
        return
    fi
    rm -rf "$etc" "$root/var/lib/smtpproxy" "$root/var/log/smtpproxy" "$units/smtpproxy.service.d"
    if [ -z "$root" ] && id "$USER_NAME" >/dev/null 2>&1; then
        userdel "$USER_NAME" || warn "the user $USER_NAME cannot be removed"
    fi
    say 'smtpproxy is removed, with all that it had'
}

main "$@"
