"""Job files: what they do, with stand-ins for the programs that they call; and what a cluster would refuse."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fbunet_jax.cli import main

TPU = ("--tpu.project", "lab", "--tpu.zone", "us-west4-a", "--tpu.disk", "projects/lab/zones/us-west4-a/disks/runs")
SETUP = {"slurm": (), "tpu": (*TPU, "--setup", "source ~/fbunet/bin/activate"), "k8s": ("--k8s.image", "lab/fbunet:1")}
ODD = "it's $HOME $$1 $(HOSTNAME) $$(HOSTNAME)"
FILES = {
    "slurm": "fbunet-quickstart.sbatch",
    "tpu": "fbunet-quickstart-tpu.sh",
    "k8s": "fbunet-quickstart-k8s.yaml",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Return an empty working folder with a space in its name, and a folder of programs that come first."""
    folder = tmp_path / "my work"
    (folder / "programs").mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{folder / 'programs'}:{os.environ['PATH']}")
    return folder


def program(folder, name, text):
    path = folder / "programs" / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def written(system, *options, file=""):
    chosen = ("--file", file) if file else ()
    assert main(["jobs", system, *SETUP[system], *options, *chosen]) == 0
    return Path(file or FILES[system]).read_text()


def shell_texts(system, text):
    if system != "k8s":
        return [text]
    [container] = yaml.safe_load(text)["spec"]["template"]["spec"]["containers"]
    return [as_kubernetes(each, {"HOSTNAME": "replaced"}) for each in container["args"]]


def as_kubernetes(text, variables):
    """Return what Kubernetes gives to a container: $$ is $, and $(NAME) is a variable's value if there is one."""
    pattern = r"\$\$|\$\((\w+)\)"
    return re.sub(pattern, lambda found: variables.get(found[1], found[0]) if found[1] else "$", text)


@pytest.mark.parametrize("options", [(), ("--methods", "unet", "ru-net", "--seeds", "2", "--data.root", ODD)])
@pytest.mark.parametrize("system", FILES)
def test_what_a_shell_runs_is_free_of_mistakes_for_bash_and_shellcheck(system, options, here):
    for text in shell_texts(system, written(system, *options)):
        assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
        if shutil.which("shellcheck"):
            # SC2016: a $ in single quotes, which is meant; SC2317: a function that only a trap calls
            command = ["shellcheck", "--shell=bash", "--exclude=SC2016,SC2317", "-"]
            checked = subprocess.run(command, input=text, text=True, capture_output=True)
            assert checked.stdout == ""


@pytest.mark.parametrize("system", ["slurm", "k8s"])
def test_each_index_is_one_training_and_together_they_are_all(system, here):
    options = ("--methods", "unet", "ru-net", "--fold", "0", "3", "--seeds", "2", "--out", "my runs")
    text = written(system, *options, "--setup", "true", "--data.root", ODD, "--data.classes", "cell body", "7")
    program(here, "fbunet", 'printf "%s\\n" "$@" >> calls; echo >> calls')
    index = {"slurm": "SLURM_ARRAY_TASK_ID", "k8s": "JOB_COMPLETION_INDEX"}[system]
    for number in range(8):
        variables = {index: str(number), "SLURM_ARRAY_JOB_ID": "7"}
        [script] = shell_texts(system, text)
        assert subprocess.run(["bash", "-c", script], env=os.environ | variables).returncode == 0
    calls = [block.splitlines() for block in (here / "calls").read_text().split("\n\n") if block]
    found = [{call[i]: call[i + 1] for i in range(1, 11, 2)} for call in calls]
    # a launcher of several processes does not make them one training
    assert {each["--distributed.num-processes"] for each in found} == {"1"}
    assert [(each["--method"], each["--fold"], each["--seed"]) for each in found] == [
        *(("unet", "0", "0"), ("ru-net", "0", "0"), ("unet", "3", "0"), ("ru-net", "3", "0")),
        *(("unet", "0", "1"), ("ru-net", "0", "1"), ("unet", "3", "1"), ("ru-net", "3", "1")),
    ]
    assert found[5]["--out"] == "my runs/ru-net-seed1"
    assert all(call[0] == "train" and f"--data.root={ODD}" in call and "cell body" in call for call in calls)
    beyond = os.environ | {index: "8", "SLURM_ARRAY_JOB_ID": "7"}
    done = subprocess.run(["bash", "-c", script], env=beyond, capture_output=True, text=True)
    assert done.returncode == 2
    assert "There is no training 8: expected 0 to 7." in done.stderr


def test_the_lines_for_sbatch_are_those_that_were_asked_for(here):
    text = written("slurm", "--slurm.partition", "gpu", "--slurm.at-once", "2", "--slurm.time", "4:00:00")
    lines = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]
    expected = {"--array=0-4%2", "--partition=gpu", "--time=4:00:00", "--gres=gpu:1", "--cpus-per-task=4", "--mem=16G"}
    assert {*expected, "--requeue", "--signal=B:TERM@120", "--open-mode=append", f'--chdir="{here}"'} <= set(lines)
    assert not [line for line in lines if "account" in line or "constraint" in line]


@pytest.mark.parametrize(
    ("deed", "state", "code", "requeued"),
    [
        ("save", "RUNNING", 130, True),  # warned before the time limit
        ("save", "COMPLETING", 130, False),  # Slurm requeues or cancels it
        ("die", "RUNNING", 143, True),  # the signal came before the training had begun
        ("fail", "RUNNING", 2, False),
        ("finish", "RUNNING", 0, False),
    ],
)
def test_only_a_job_that_was_warned_is_requeued_by_its_script(deed, state, code, requeued, here):
    deeds = {
        # the handler first; then the shell that waits for it gets the signal
        "save": "trap 'echo saved; exit 130' TERM; kill -TERM $PPID; while :; do read -t 0.1 < <(:); done",
        "die": "kill -TERM $PPID; exec tail -f /dev/null",
        "fail": "exit 2",
        "finish": "exit 0",
    }
    program(here, "fbunet", deeds[deed])
    program(here, "squeue", f'[[ "$*" == *--job=7_3* ]] && echo {state}')
    program(here, "scontrol", 'echo "$@" > requeued')
    text = written("slurm", "--setup", "true")
    variables = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "7", "SLURM_JOB_ID": "10"}
    done = subprocess.run(["bash", "-c", text], env=os.environ | variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    # not SLURM_JOB_ID: that of one of the jobs names the whole array
    assert (here / "requeued").exists() == requeued
    if requeued:
        assert (here / "requeued").read_text() == "requeue 7_3\n"
    assert ("saved" in done.stdout) == (deed == "save")


def test_a_controller_that_does_not_answer_at_once_is_asked_again(here, monkeypatch):
    program(here, "fbunet", "exit 130")
    program(here, "squeue", "echo >> asked; [[ $(wc -l < asked) == 3 ]] && echo RUNNING")
    program(here, "scontrol", 'echo "$@" > requeued')
    monkeypatch.setenv("WAIT_SECONDS", "0")
    variables = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "7"}
    text = written("slurm", "--setup", "true")
    assert subprocess.run(["bash", "-c", text], env=os.environ | variables, timeout=60).returncode == 130
    assert (here / "requeued").read_text() == "requeue 7_3\n"


def test_a_signal_during_the_setup_starts_no_training(here):
    program(here, "fbunet", "touch started")
    program(here, "squeue", "echo RUNNING")
    program(here, "scontrol", "touch requeued")
    text = written("slurm", "--setup", "kill -TERM $$")
    variables = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "7"}
    assert subprocess.run(["bash", "-c", text], env=os.environ | variables).returncode == 130
    assert not (here / "started").exists()
    assert (here / "requeued").exists()


def test_without_a_setup_the_job_calls_this_program_by_its_path(here):
    text = written("slurm", "--fold", "0")
    assert f"{sys.executable} -P -m fbunet_jax.cli train" in text


@pytest.mark.parametrize("system", ["tpu", "k8s"])
def test_other_trainings_of_a_configuration_have_another_name(system, here):
    names = []
    for options in (("--methods", "unet"), ("--methods", "ru-net"), ("--methods", "unet", "--training.epochs", "3")):
        text = written(system, *options, file=f"{len(names)}.txt")
        names += re.findall(r"^ *(?:node=|name: )(fbunet-quickstart-\S+)$", text, re.MULTILINE)
    assert len(set(names)) == 3


def test_the_job_of_kubernetes_is_valid_and_says_what_was_asked_for(here):
    options = ("--k8s.data-claim", "images", "--k8s.at-once", "3", "--k8s.namespace", "lab", "--k8s.grace", "90")
    job = yaml.safe_load(written("k8s", *options, "--setup", "export A=1\nexport B=2"))
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 5, 3)
    assert spec["podFailurePolicy"]["rules"] == [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    ]
    assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 90)
    assert container["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": 1}
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/work", "/data"}
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]]
    assert claims == ["fbunet-runs", "images"]
    assert container["args"][0].startswith("export A=1\nexport B=2\n")
    schemas = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed: no schema check")
    for version in ("1.29", schemas.latest_version()):
        schemas.validate(job, version, strict=True)
    del spec["template"]["spec"]["containers"][0]["name"]
    with pytest.raises(schemas.ValidationError):
        schemas.validate(job, "1.29", strict=True)


GCLOUD = r"""
echo "$@" >> calls
case "$*" in
  *" describe "*) cat state 2>/dev/null || { echo "NOT_FOUND: Resource was not found" >&2; exit 1; } ;;
  *" create "*) echo WAITING_FOR_RESOURCES > state ;;
  *" delete "*) rm state ;;
  *" ssh "*)
    tries=$(($(cat tries 2>/dev/null || echo 0) + 1))
    echo $tries > tries
    [[ $tries != 1 ]] || { echo SUSPENDED > state && exit 255; }
    exit LAST ;;
esac
# what is waited for comes until the next look
[[ "$*" != *" describe "* ]] || [[ $(cat state) != WAITING* ]] || echo ACTIVE > state
"""


@pytest.mark.parametrize(("last", "code"), [(0, 0), (2, 2)])
def test_a_tpu_that_is_taken_away_is_asked_for_again_and_deleted_when_all_is_finished(last, code, here, monkeypatch):
    program(here, "gcloud", GCLOUD.replace("LAST", str(last)))
    monkeypatch.setenv("WAIT_SECONDS", "0")
    written("tpu", "--methods", "unet", "ru-net", "--fold", "0", "2", "--training.epochs", "3")
    done = subprocess.run(["bash", FILES["tpu"]], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    calls = (here / "calls").read_text()
    verbs = [line.split()[3] for line in calls.splitlines() if line.startswith("compute tpus")]
    expected = ["describe", "create", "describe", "describe", "ssh", "describe", "delete"]
    expected += ["describe", "create", "describe", "describe", "ssh"]
    assert verbs == expected + ["delete"] * (code == 0)
    assert "--accelerator-type=v5litepod-8 --runtime-version=v2-alpha-tpuv5-lite --spot" in calls
    sweep = " fbunet sweep --methods unet ru-net --fold 0 2 --seed 0 --seeds 1 --out runs/quickstart"
    assert f"{sweep} --config quickstart --training.epochs=3" in calls
    assert ("costs money" in done.stderr) == (code == 2)


def test_trainings_that_went_on_when_a_connection_broke_are_waited_for(here, monkeypatch):
    """The first connection breaks, the next seven find the trainings under way, and the last one that all is done."""
    program(
        here,
        "gcloud",
        """
        case "$*" in
          *" describe "*) echo ACTIVE ;;
          *" ssh "*)
            tries=$(($(cat tries 2>/dev/null || echo 0) + 1))
            echo $tries > tries
            case $tries in 1) exit 255 ;; 9) exit 0 ;; *) exit 75 ;; esac ;;
          *" delete "*) touch deleted ;;
        esac
        """,
    )
    monkeypatch.setenv("WAIT_SECONDS", "0")
    written("tpu", "--fold", "0")
    done = subprocess.run(["bash", FILES["tpu"]], capture_output=True, text=True, timeout=60)
    assert (done.returncode, (here / "tries").read_text()) == (0, "9\n")
    assert (here / "deleted").exists()


def test_a_network_that_fails_for_a_while_neither_ends_the_script_nor_asks_for_a_second_vm(here, monkeypatch):
    """The first look fails and the second one finds none; the first creation fails and the second one does not."""
    program(
        here,
        "gcloud",
        """
        echo "$4" >> calls
        case "$*" in
          *" describe "*)
            [[ $(wc -l < calls) != 1 ]] || { echo "Could not reach the server" >&2; exit 1; }
            cat state 2>/dev/null || { echo "NOT_FOUND" >&2; exit 1; } ;;
          *" create "*) [[ $(grep -c create calls) == 2 ]] && echo ACTIVE > state ;;
        esac
        """,
    )
    monkeypatch.setenv("WAIT_SECONDS", "0")
    written("tpu", "--fold", "0")
    done = subprocess.run(["bash", FILES["tpu"]], capture_output=True, text=True, timeout=60)
    expected = ["describe", "describe", "create", "describe", "create", "describe", "ssh", "delete"]
    assert (done.returncode, (here / "calls").read_text().split()) == (0, expected)
    assert "Could not reach the server" in done.stderr


def test_a_vm_that_is_not_granted_is_asked_for_five_times(here, monkeypatch):
    program(here, "gcloud", 'echo "$4" >> calls; echo NOT_FOUND >&2; exit 1')
    monkeypatch.setenv("WAIT_SECONDS", "0")
    written("tpu", "--fold", "0")
    done = subprocess.run(["bash", FILES["tpu"]], capture_output=True, text=True, timeout=60)
    assert (done.returncode, (here / "calls").read_text().split()) == (1, ["describe", "create"] * 5)
    assert "costs money" in done.stderr


def test_only_one_sweep_runs_on_a_tpu_vm(here, tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    program(here, "sudo", "exit 0")
    program(here, "mountpoint", "exit 0")
    # it says that it runs, and ends when it may
    program(here, "fbunet", "echo running; read -r")
    written("tpu", "--fold", "0", "--tpu.folder", str(disk), "--setup", "true")
    text = Path(FILES["tpu"]).read_text()
    script = text[text.index("set -euo pipefail\nmountpoint") : text.index("\nON_THE_VM\n)")]
    with subprocess.Popen(["bash", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "running\n"
        assert subprocess.run(["bash", "-c", script], timeout=60).returncode == 75
        first.communicate("\n", timeout=60)
    assert first.returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["slurm", "--slurm.cpus", "0"], "--slurm.cpus 0: expected a number of at least 1"),
        (["slurm", "--slurm.time", ""], "--slurm.time is empty"),
        (["slurm", "--slurm.partition", "gpu; rm"], "--slurm.partition 'gpu; rm'"),
        (["slurm", "--k8s.image", "lab/fbunet:1"], "an option of fbunet jobs k8s"),
        (["slurm", "--fold", "9"], "--fold 9"),
        (["k8s"], "--k8s.image is missing"),
        (["tpu", *TPU], "--setup is missing"),
        (["tpu", *TPU[2:]], "--tpu.project is missing"),
    ],
)
def test_a_mistake_gets_a_sentence_and_exit_code_2_and_nothing_is_written(options, message, here, capsys):
    try:
        code = main(["jobs", *options])
    except SystemExit as end:  # while the options are parsed, which frames and wraps the sentence
        code = end.code
    assert code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in here.iterdir()] == ["programs"]


def test_a_file_that_exists_is_left_as_it_is(here, capsys):
    written("slurm")
    assert main(["jobs", "slurm", "--slurm.time", "1"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["jobs", "slurm", "--slurm.time", "1", "--file", "other.sbatch"]) == 0
    assert "--time=1\n" in (here / "other.sbatch").read_text()
