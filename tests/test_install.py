"""install.sh: what it changes, what it leaves, and what it says, in a folder that is a machine."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from release.wheels import PYTHONS
from tests.support.layers import ROOT
from tests.support.machine import EXAMPLE, OPT, Machine
from tests.support.needs import need

CONFIG = "etc/smtpproxy/smtpproxy.toml"
UNIT = "etc/systemd/system/smtpproxy.service"


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A machine on which 1.0 runs, with a configuration of its own."""
    machine = Machine(tmp_path_factory.mktemp("first") / "machine")
    machine.configure()
    assert machine.install("1.0").status == 0
    return machine


@pytest.fixture(scope="module")
def second(first, tmp_path_factory):
    """That machine, after 2.0 came."""
    machine = first.copy(tmp_path_factory.mktemp("second") / "machine")
    assert machine.install("2.0").status == 0
    return machine


@pytest.fixture
def new(tmp_path):
    return Machine(tmp_path / "machine")


@pytest.fixture
def running(first, tmp_path):
    machine = first.copy(tmp_path / "machine")
    machine.asked()
    return machine


@pytest.fixture
def upgraded(second, tmp_path):
    machine = second.copy(tmp_path / "machine")
    machine.asked()
    return machine


# The first time.


def test_the_first_time_it_is_installed_and_not_started(new):
    said = new.install("1.0")
    assert said.status == 0, said.text
    assert new.link("current") == "1.0"
    assert new.link("previous") == ""
    assert new.read(CONFIG) == f"{EXAMPLE} 1.0\n"
    assert new.read(UNIT) == "# unit of 1.0\n"
    assert new.read("usr/local/share/man/man8/smtpproxy.8") == "manual of 1.0\n"
    documents = new.root / "usr/local/share/doc/smtpproxy"
    assert str(documents.readlink()) == "/opt/smtpproxy/current/bundle/docs"
    assert new.read("opt/smtpproxy/current/bundle/docs/failures.md") == "failures of 1.0\n"
    assert f"What all of it means is in {documents}" in said.text
    command = new.root / "usr/local/bin/smtpproxy"
    assert str(command.readlink()) == "/opt/smtpproxy/current/bin/smtpproxy"
    assert not new.active()
    assert "nobody has configured it yet" in said.text
    assert "systemctl enable --now smtpproxy" in said.text


def test_with_a_configuration_that_is_there_it_is_started_the_first_time(new):
    new.configure()
    said = new.install("1.0")
    assert said.status == 0, said.text
    assert new.active()
    assert new.enabled()
    assert new.read(CONFIG) == "edited\n"


def test_settings_in_the_environment_file_are_a_configuration(new):
    assert new.install("1.0").status == 0
    (new.state / "smtpproxy.service.enabled").touch()
    environment = new.root / "etc/smtpproxy/environment"
    environment.write_text("# SMTPPROXY_DOMAIN=b.test\n")
    assert "nobody has configured it yet" in new.again().text
    environment.write_text("# of the site\nSMTPPROXY_DOMAIN=a.test\n")
    assert new.again().status == 0
    assert new.active()


def test_a_disabled_service_stays_so(new):
    assert new.install("1.0").status == 0
    new.configure()
    said = new.install("2.0")
    assert said.status == 0, said.text
    assert not new.active()
    assert "systemctl enable --now smtpproxy" in said.text


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to give files to others")
def test_files_are_for_those_who_need_them(new):
    new.install("1.0")
    for name, mode, owner in (
        ("etc/smtpproxy", 0o750, (0, 990)),
        (CONFIG, 0o640, (0, 990)),
        ("var/lib/smtpproxy", 0o750, (990, 990)),
        (UNIT, 0o644, (0, 0)),
    ):
        state = (new.root / name).stat()
        assert (state.st_mode & 0o777, (state.st_uid, state.st_gid)) == (mode, owner), name


def test_the_program_can_be_read_by_the_service_whatever_the_umask(new):
    script = new.unpack("1.0")
    for path in [script, *script.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)
    assert new.run(script / "install.sh").status == 0
    for path in (new.root / OPT / "releases").rglob("*"):
        if not path.is_symlink():
            assert path.stat().st_mode & 0o044 == 0o044, path


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to make a user")
def test_the_user_is_made(new):
    (new.root / "etc/passwd").write_text("root:x:0:0::/:\n")
    new.program("useradd", f'#!/bin/sh\necho "$*" >{new.state}/useradd\n')
    said = new.install("1.0")
    assert said.status == 0, said.text
    asked = (new.state / "useradd").read_text()
    assert asked.startswith(f"--prefix {new.root} --system")
    assert asked.endswith(" smtpproxy\n")


def test_without_systemd_it_is_installed_all_the_same(tmp_path):
    machine = Machine(tmp_path / "machine", systemd=False)
    machine.configure()
    said = machine.install("1.0")
    assert said.status == 0, said.text
    assert machine.link("current") == "1.0"
    assert machine.asked() == []
    assert not (machine.root / UNIT).exists()


def test_scripts_know_the_folder_that_they_will_have(new):
    new.install("1.0")
    shebang = new.read(f"{OPT}/current/bin/twistd").splitlines()[0]
    assert shebang.startswith("#!/opt/smtpproxy/releases/1.0/bin/python")
    assert str(new.root) not in new.read(f"{OPT}/current/pyvenv.cfg")


# Again, and newer.


def test_again_it_changes_nothing_and_restarts_nothing(running):
    # What the service runs is known by its command line.
    command = ["sh", "-c", "read line", "/opt/smtpproxy/releases/1.0/bin/python"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as service:
        (running.state / "pid").write_text(f"{service.pid}\n")
        before = running.everything()
        said = running.again()
        service.communicate(b"\n")
    assert said.status == 0, said.text
    assert running.everything() == before
    assert "runs already" in said.text
    assert not [line for line in running.asked() if line.startswith("restart")]


def test_again_it_starts_what_does_not_run(running):
    (running.state / "smtpproxy.service.active").unlink()
    assert running.again().status == 0
    assert running.active()


def test_an_upgrade(running):
    said = running.install("2.0")
    assert said.status == 0, said.text
    assert (running.link("current"), running.link("previous")) == ("2.0", "1.0")
    assert running.read(UNIT) == "# unit of 2.0\n"
    assert "restart smtpproxy.service" in running.asked()


def test_the_same_version_made_anew_is_another_release(running):
    said = running.install("1.0", note="anew")
    assert said.status == 0, said.text
    assert running.link("current").startswith("1.0-")
    assert running.link("previous") == "1.0"
    assert running.install("1.0").status == 0
    assert running.link("current") == "1.0"


def test_three_releases_are_kept(upgraded):
    for version in ("3.0", "4.0"):
        assert upgraded.install(version).status == 0
    assert upgraded.releases() == {"4.0", "3.0", "2.0"}


def test_a_release_that_runs_is_kept(upgraded):
    command = ["sh", "-c", "read line", "/opt/smtpproxy/releases/1.0/bin/python"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as service:
        for version in ("3.0", "4.0"):
            assert upgraded.install(version, "--no-start").status == 0
        service.communicate(b"\n")
    assert upgraded.releases() == {"4.0", "3.0", "2.0", "1.0"}


def test_an_edited_file_is_kept_and_the_new_one_put_beside(running):
    (running.root / UNIT).write_text("# my own\n")
    said = running.install("2.0")
    assert said.status == 0, said.text
    assert running.read(CONFIG) == "edited\n"
    assert running.read(f"{CONFIG}.new") == f"{EXAMPLE} 2.0\n"
    assert running.read(UNIT) == "# my own\n"
    assert running.read(f"{UNIT}.new") == "# unit of 2.0\n"
    assert f"{running.root / CONFIG} was edited, and is kept" in said.text


def test_a_file_that_was_not_edited_is_replaced(new):
    new.install("1.0")
    (new.root / "etc/smtpproxy/mapping.csv").write_text("pattern;server\n*;mx.example.net\n")
    new.install("2.0")
    assert new.read(CONFIG) == f"{EXAMPLE} 2.0\n"
    assert "mx.example.net" in new.read("etc/smtpproxy/mapping.csv")
    assert not list((new.root / "etc/smtpproxy").glob("*.new"))


def test_a_command_of_somebody_else_s_is_kept(new):
    command = new.root / "usr/local/bin/smtpproxy"
    command.parent.mkdir(parents=True)
    command.write_text("mine")
    said = new.install("1.0")
    assert said.status == 0, said.text
    assert command.read_text() == "mine"
    assert "is somebody else's, and is kept" in said.text
    new.again("--uninstall")
    assert command.read_text() == "mine"


# What keeps it from switching: all is as it was.


def unchanged(machine, *options, version="2.0"):
    """What it says; nothing in force may have changed, and nothing half built be left."""
    before = machine.everything()
    said = machine.install(version, *options)
    assert said.status == 1, said.text
    after = {k: v for k, v in machine.everything().items() if "releases/2.0" not in k}
    assert after == before
    assert not [line for line in machine.asked() if line.startswith(("restart", "stop"))]
    assert f"In force is {machine.link('current')}, as before" in said.text
    return said.text


def test_a_configuration_that_the_new_one_refuses(running):
    running.configure("edited\nrefused by 2.0\n")
    text = unchanged(running)
    assert "refused by 2.0" in text
    assert "2.0 does not accept" in text


def test_no_tls(running):
    running.configure("no TLS\n")
    text = unchanged(running)
    assert "handshake failed" in text
    assert "does not take mail by TLS" in text


def test_a_port_that_is_held_is_named_with_its_owner(running):
    running.configure("held\n")
    assert "port 25 on 0.0.0.0 is held by master (pid 812)" in unchanged(running)


def test_before_anything_is_configured_a_held_port_is_told_of(new):
    (new.root / "etc/smtpproxy").mkdir()
    script = new.unpack("1.0")
    (script / "host/ports.py").write_text("print('port 25 is held by master (pid 812)'); exit(1)\n")
    sums = subprocess.run(
        "sed -i '/ports.py/d' SHA256SUMS && sha256sum host/ports.py >>SHA256SUMS",
        shell=True,
        cwd=script,
        check=True,
    )
    assert sums.returncode == 0
    said = new.run(script / "install.sh")
    assert said.status == 0, said.text
    assert "held by master (pid 812)" in said.text


def test_a_tarball_that_was_damaged(running):
    script = running.unpack("2.0")
    (script / "VERSION").write_text("3.0\n")
    before = running.everything()
    said = running.run(script / "install.sh")
    assert said.status == 1
    assert "not as it was made: VERSION: FAILED" in said.text
    assert running.everything() == before


def test_a_wheel_that_is_not_the_one_meant(running):
    script = running.unpack("2.0")
    (script / "requirements.txt").write_text("smtpproxy==2.0 --hash=sha256:00\n")
    command = "sed -i '/requirements.txt/d' SHA256SUMS && sha256sum requirements.txt >>SHA256SUMS"
    subprocess.run(command, shell=True, cwd=script, check=True)
    before = running.everything()
    said = running.run(script / "install.sh")
    assert said.status == 1
    assert "hashes do not match" in said.text
    assert "cannot be built" in said.text
    assert running.everything() == before


def test_a_python_that_is_too_old(new):
    for name in ("python3", *(f"python{each}" for each in PYTHONS)):
        (new.programs / name).unlink(missing_ok=True)
        new.program(name, "#!/bin/sh\necho 3.9\n")
    said = new.install("1.0")
    assert said.status == 1
    assert "is Python 3.9; Python 3.11, 3.12 or 3.13 is needed" in said.text
    assert "Nothing was changed" in said.text
    assert not (new.root / OPT).exists()


def test_another_processor(new):
    new.program("uname", "#!/bin/sh\necho riscv64\n")
    said = new.install("1.0")
    assert said.status == 1
    assert "for the processor riscv64" in said.text


def test_a_full_disk(new):
    new.program("df", "#!/bin/sh\necho head\necho /dev/x 1 1 1024 1 /\n")
    said = new.install("1.0")
    assert said.status == 1
    assert "/opt/smtpproxy has room for 1 MB" in said.text


def test_two_at_once(running):
    lock = running.root / OPT / ".lock"
    lock.symlink_to(str(os.getpid()))
    said = running.again()
    assert said.status == 1
    assert f"another install.sh is at work (pid {os.getpid()})" in said.text
    assert lock.is_symlink()


def test_a_lock_that_nobody_holds_any_more(running):
    process = subprocess.Popen(["true"])
    process.wait()
    (running.root / OPT / ".lock").symlink_to(str(process.pid))
    assert running.again().status == 0
    assert not (running.root / OPT / ".lock").is_symlink()


# What does not get ready.


def test_it_switches_back_by_itself(running):
    running.fail("2.0")
    said = running.install("2.0")
    assert said.status == 1
    assert (running.link("current"), running.link("previous")) == ("1.0", "")
    assert running.read(UNIT) == "# unit of 1.0\n"
    assert running.active()
    assert "the journal" in said.text
    assert "In force is 1.0 again, and it runs" in said.text


def test_it_switches_back_and_the_one_before_stays_so(upgraded):
    upgraded.fail("3.0")
    assert upgraded.install("3.0").status == 1
    assert (upgraded.link("current"), upgraded.link("previous")) == ("2.0", "1.0")


def test_where_the_old_one_does_not_start_either_it_says_so(running):
    running.fail("1.0", "2.0")
    said = running.install("2.0")
    assert said.status == 1
    assert running.link("current") == "1.0"
    assert "NO MAIL IS TAKEN NOW" in said.text


def test_where_there_is_nothing_to_go_back_to_the_service_is_stopped(new):
    new.configure()
    new.fail("1.0")
    said = new.install("1.0")
    assert said.status == 1
    assert "nothing to go back to" in said.text
    assert not new.active()
    assert "stop smtpproxy.service" in new.asked()


# The options.


def test_dry_run_changes_nothing(running):
    before = running.everything()
    said = running.install("2.0", "--dry-run")
    assert said.status == 0, said.text
    assert running.everything() == before
    assert "STARTTLS works" in said.text
    assert "would switch from 1.0 to 2.0" in said.text
    assert "would restart the service" in said.text


def test_dry_run_on_a_new_machine(new):
    before = new.everything()
    said = new.install("1.0", "--dry-run")
    assert said.status == 0, said.text
    assert new.everything() == before
    assert not (new.root / "opt").exists()


def test_dry_run_says_what_would_be_refused(running):
    running.configure("refused by 2.0\n")
    before = running.everything()
    said = running.install("2.0", "--dry-run")
    assert said.status == 1
    assert "2.0 does not accept" in said.text
    assert running.everything() == before


@pytest.mark.parametrize("option", ["--rollback", "--repair", "--uninstall"])
def test_dry_run_of_the_others(upgraded, option):
    before = upgraded.everything()
    said = upgraded.again(option, "--dry-run")
    assert said.status == 0, said.text
    assert "would" in said.text
    assert upgraded.everything() == before


def test_no_start(running):
    said = running.install("2.0", "--no-start")
    assert said.status == 0, said.text
    assert running.link("current") == "2.0"
    assert not [line for line in running.asked() if line.startswith("restart")]
    assert "systemctl restart smtpproxy" in said.text


def test_rollback_and_forth(upgraded):
    said = upgraded.again("--rollback")
    assert said.status == 0, said.text
    assert (upgraded.link("current"), upgraded.link("previous")) == ("1.0", "2.0")
    assert upgraded.read(UNIT) == "# unit of 1.0\n"
    assert "restart smtpproxy.service" in upgraded.asked()
    assert upgraded.again("--rollback").status == 0
    assert (upgraded.link("current"), upgraded.link("previous")) == ("2.0", "1.0")


def test_rollback_to_what_does_not_start(upgraded):
    upgraded.fail("1.0")
    said = upgraded.again("--rollback")
    assert said.status == 1
    assert (upgraded.link("current"), upgraded.link("previous")) == ("2.0", "1.0")
    assert "In force is 2.0 again, and it runs" in said.text


def test_rollback_is_not_kept_by_a_database_that_is_down(upgraded):
    upgraded.configure("refused\n")
    said = upgraded.again("--rollback")
    assert said.status == 0, said.text
    assert upgraded.link("current") == "1.0"


def test_nothing_to_roll_back_to(running):
    said = running.again("--rollback")
    assert said.status == 1
    assert "there is no release to go back to" in said.text


def test_repair_after_python_has_gone(running):
    python = running.root / OPT / "releases/1.0/bin"
    for each in python.glob("python*"):
        each.unlink()
        each.symlink_to("/nonexistent/python")
    running.configure("refused\n")  # a database is down as well: that is no reason to stay broken
    said = running.again("--repair")
    assert said.status == 0, said.text
    assert running.link("current") == "1.0"
    assert (python / "python").resolve() != python / "python"
    assert (python / "python").exists()
    assert "restart smtpproxy.service" in running.asked()


def test_an_install_repairs_what_lost_its_python(running):
    for each in (running.root / OPT / "releases/1.0/bin").glob("python*"):
        each.unlink()
    assert running.again().status == 0
    assert (running.root / OPT / "releases/1.0/bin/python").exists()


def test_repair_is_for_what_is_in_force(upgraded):
    said = upgraded.run(upgraded.root / OPT / "releases/1.0/bundle/install.sh", "--repair")
    assert said.status == 1
    assert "in force is 2.0, and this is install.sh of 1.0" in said.text


def test_uninstall_keeps_what_is_the_site_s(upgraded):
    said = upgraded.again("--uninstall")
    assert said.status == 0, said.text
    assert not upgraded.active()
    left = {name for name in upgraded.everything() if not name.startswith("etc/smtpproxy/")}
    assert left == {"etc/passwd", "etc/group"}
    assert upgraded.read(CONFIG) == "edited\n"
    assert not (upgraded.root / OPT).exists()


def test_purge(running):
    said = running.again("--uninstall", "--purge")
    assert said.status == 0, said.text
    assert set(running.everything()) == {"etc/passwd", "etc/group"}
    assert not (running.root / "var/lib/smtpproxy").exists()


def test_uninstall_where_nothing_is(new):
    said = new.run(new.unpack("1.0") / "install.sh", "--uninstall")
    assert said.status == 0
    assert "is not installed" in said.text
    assert not (new.root / OPT).exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--frobnicate"], "there is no option --frobnicate"),
        (["--purge"], "--purge is for --uninstall"),
        (["--repair", "--rollback"], "cannot be done at once"),
        (["--root"], "--root needs a folder"),
        (["--root", "/nonexistent"], "there is no such folder"),
    ],
)
def test_wrong_use(new, options, text):
    said = new.run(ROOT / "install.sh", *options)
    assert said.status == 2
    assert text in said.text


def test_help_names_every_option(new):
    said = new.run(ROOT / "install.sh", "--help")
    assert said.status == 0
    script = (ROOT / "install.sh").read_text()
    options = {"--dry-run", "--no-start", "--root", "--repair", "--rollback", "--uninstall"}
    assert all(each in said.text for each in options | {"--purge", "--help"})
    assert all(
        f"{each})" in script or f"{each} |" in script or f"| {each}" in script for each in options
    )
    page = (ROOT / "docs/install.md").read_text()
    assert all(f"`{each}" in page for each in options | {"--purge"})


def test_only_root_may_without_a_root_of_its_own(new):
    if os.getuid() == 0:
        new.program("id", "#!/bin/sh\necho 1000\n")
    path = f"{new.programs}:/usr/bin:/bin"
    command = ["sh", str(ROOT / "install.sh"), "--dry-run"]
    done = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "sudo sh install.sh" in done.stderr


def test_it_looks_for_the_pythons_that_the_tarball_has():
    text = (ROOT / "install.sh").read_text()
    assert f"PYTHONS='{' '.join(reversed(PYTHONS))}'" in text
    assert " ".join(f"python{each}" for each in reversed(PYTHONS)) in text


# Shells.

SHELLS = [("dash",), ("busybox", "sh"), ("bash", "--posix")]


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_a_whole_life_in_each_shell(running, shell):
    need(shell[0])
    script = running.unpack("2.0") / "install.sh"
    installed = running.root / OPT / "install.sh"
    for version, arguments in (
        ("2.0", (script,)),
        ("1.0", (installed, "--rollback")),
        ("1.0", (installed, "--repair")),
        ("", (installed, "--uninstall", "--purge")),
    ):
        said = running.run(*arguments, shell=shell)
        assert said.status == 0, said.text
        assert running.link("current") == version


def test_shellcheck_finds_nothing():
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck: apt-get install shellcheck")
    scripts = [ROOT / "install.sh", ROOT / "release/install-on"]
    subprocess.run(["shellcheck", *scripts], check=True, timeout=60)
