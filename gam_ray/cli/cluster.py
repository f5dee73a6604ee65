"""What goes to a cluster, or through it: submit, logs, stop, doctor."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from gam_ray.cli.common import (
    DONE,
    FAILED,
    INTERRUPTED,
    STOPPED,
    DashboardOption,
    DataOption,
    DebugOption,
    JsonOption,
    StorageOption,
    StudyArgument,
    err,
    errors,
    is_study_file,
    out,
    print_json,
    say,
    store_of,
)
from gam_ray.config.secrets import masked

if TYPE_CHECKING:
    from gam_ray.config import StudyConfig
    from gam_ray.study.doctor import Check
    from gam_ray.study.jobs import Job, Jobs
    from gam_ray.study.store import StudyStore

POLL_S = 0.5
JOB_EXIT_CODES = {"succeeded": DONE, "stopped": STOPPED}
STATE_STYLES = {"ok": "green", "warning": "yellow", "failed": "red"}

ImageOption = Annotated[
    bool,
    typer.Option(
        "--image-has-code", help="Use the nodes' own gam_ray; by default this one goes along."
    ),
]
NodesDataOption = Annotated[
    Path | None,
    typer.Option(help="Folder of data sets on the nodes; by default GAM_RAY_DATA there."),
]


def submit(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")],
    address: DashboardOption = None,
    data_root: NodesDataOption = None,
    image: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --kubernetes: of the pods; by default gam-ray."),
    ] = None,
    *,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow its log, and end as the study ends.")
    ] = False,
    image_has_code: ImageOption = False,
    kubernetes: Annotated[
        bool,
        typer.Option("--kubernetes", help="With --dry-run: print a RayJob in place of sending."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --kubernetes: print the manifest.")
    ] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Send a study to a Ray cluster as a job; one that ended there before goes on.

    The study's name is the job's id: what runs already is not started a second time, and its
    next attempt is NAME@2. The study's storage must be a folder that all nodes see.

    On Kubernetes KubeRay makes a cluster for it: `--kubernetes --dry-run` prints the manifest.

    Example: `gam-ray submit jobs/mnist_to_usps.yaml --address http://head:8265`
    """
    with errors(debug=debug):
        from gam_ray.config import load_study_config

        if kubernetes or dry_run:
            _check_manifest_options(study, address, kubernetes=kubernetes, dry_run=dry_run)
            from gam_ray.study.kubernetes import IMAGE, render

            config = load_study_config(study)
            sys.stdout.write(render(config, image=image or IMAGE, data_root=data_root))
            return
        if address is None:
            raise ValueError(
                "--address must name the cluster's dashboard, such as http://head:8265, but is not "
                "given; for Kubernetes: --kubernetes --dry-run"
            )
        submit_study(
            load_study_config(study),
            address,
            data_root,
            wait=wait,
            send_code=not image_has_code,
            as_json=as_json,
        )


def _check_manifest_options(
    study: Path, address: str | None, *, kubernetes: bool, dry_run: bool
) -> None:
    """Refuse what does not go together with a manifest."""
    if not (kubernetes and dry_run):
        alone = "--kubernetes without --dry-run" if kubernetes else "--dry-run without --kubernetes"
        raise ValueError(
            f"a manifest is printed, not sent, and takes both options, but got {alone}; kubectl "
            f"sends it: gam-ray submit {study} --kubernetes --dry-run | kubectl apply -f -"
        )
    if address is not None:
        raise ValueError(
            f"--kubernetes makes a cluster of its own, but got --address {address} as well; give "
            "one of them"
        )


def submit_study(
    config: StudyConfig,
    address: str | None,
    data_root: Path | None,
    *,
    wait: bool = False,
    send_code: bool = True,
    as_json: bool,
) -> None:
    """Send a study to the cluster at `address`, say how to follow it, and do so if asked."""
    from gam_ray.study.jobs import Jobs, check_for_cluster

    check_for_cluster(config, data_root)
    jobs = Jobs(str(address))
    job = jobs.submit(config, data_root=data_root, send_code=send_code)
    if not as_json:
        say(f"submitted as job {job.job}; its files go to {job.folder}")
    if wait:
        job = _follow(jobs, job, to_stdout=not as_json)
    elif not as_json:
        say(f"follow it with: gam-ray logs {job.study} --address {jobs.address} --follow")
    if as_json:
        print_json(job.to_mapping())
    if wait:
        _end_as(job)


def logs(
    study: StudyArgument,
    storage: StorageOption = "studies",
    address: DashboardOption = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the study ends.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Print what a study has told: its log in its folder, or the output of its newest job.

    Example: `gam-ray logs mnist-to-usps --address http://head:8265 --follow`
    """
    with errors(debug=debug):
        if address is None:
            _print_log(store_of(study, storage), follow=follow, as_json=as_json)
            return
        from gam_ray.study.jobs import Jobs

        jobs = Jobs(address)
        job = jobs.find(_name(study))
        if as_json:
            ended = _follow(jobs, job, to_stdout=False) if follow else job
            print_json({**ended.to_mapping(), "log": jobs.logs(job.job)})
        elif follow:
            _follow(jobs, job, to_stdout=True)
        else:
            sys.stdout.write(masked(jobs.logs(job.job)))


def stop(
    study: StudyArgument,
    storage: StorageOption = "studies",
    address: DashboardOption = None,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for its end.")] = 60.0,
    *,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """End a study in order: trials write checkpoints, runs are closed, `resume` goes on.

    Its folder carries the request, from any machine that sees it. With a dashboard's address the
    job is ended, too, where the folder is not seen from here or the study did not hear.

    Example: `gam-ray stop mnist-to-usps`
    """
    with errors(debug=debug):
        if address is None:
            state = _stop_by_folder(store_of(study, storage), timeout)
            _tell_stopped(study, state, timeout, as_json=as_json)
            return
        from gam_ray.study.jobs import Jobs

        jobs = Jobs(address)
        job = _stop_job(jobs, jobs.find(_name(study)), timeout)
        _tell_stopped(job.study, job.state, timeout, as_json=as_json, job=job)


def doctor(
    study: Annotated[
        Path | None, typer.Argument(metavar="[STUDY.yaml]", help="A study file to check for.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="A cluster: its dashboard's URL, or Ray's own address; else here."),
    ] = None,
    data_root: DataOption = None,
    *,
    image_has_code: ImageOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check a machine, or every node of a cluster, before a study loses an hour.

    Ends with 0 if nothing failed, and with 1 if something did.

    Example: `gam-ray doctor jobs/mnist_to_usps.yaml --address http://head:8265`
    """
    with errors(debug=debug):
        from gam_ray.config import load_study_config
        from gam_ray.study import doctor as checks

        config = load_study_config(study) if study else None
        if is_dashboard(address):
            found = _doctor_job(str(address), config, data_root, send_code=not image_has_code)
        elif address:
            found = checks.check_cluster(address, config, data_root)
        else:
            found = checks.check_machine(config, data_root)
        failed = any(check.state == "failed" for check in found)
        if as_json:
            print_json({"ok": not failed, "checks": [check.to_mapping() for check in found]})
        else:
            _print_checks(found)
        if failed:
            raise typer.Exit(FAILED)


def is_dashboard(address: str | None) -> bool:
    """Whether an address is that of a dashboard, to which jobs are sent."""
    from gam_ray.study import jobs

    return jobs.is_dashboard(address)


def _follow(jobs: Jobs, job: Job, *, to_stdout: bool) -> Job:
    stream = sys.stdout if to_stdout else sys.stderr

    def write(text: str) -> None:
        stream.write(masked(text))
        stream.flush()

    try:
        return jobs.follow(job.job, write)
    except KeyboardInterrupt:
        err.print(
            f"the job goes on; end it with: gam-ray stop {job.study} --address {jobs.address}",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
        raise typer.Exit(INTERRUPTED) from None


def _end_as(job: Job) -> None:
    """End as the study's own process did; 3 where Ray stopped it."""
    code = job.exit_code
    if code is None:
        code = JOB_EXIT_CODES.get(job.state, FAILED)
        if code == FAILED:
            err.print(f"job {job.job} {job.state}: {job.message}", markup=False, highlight=False)
    if code:
        raise typer.Exit(code)


def _name(study: str) -> str:
    """The name of a study given by file, folder or name."""
    from gam_ray.config import load_study_config

    if is_study_file(study):
        return load_study_config(study).name
    return Path(study).name


def _print_log(store: StudyStore, *, follow: bool, as_json: bool) -> None:
    """Print the study's log, and go on until the study is over if asked."""
    from gam_ray.study import results

    file = store.folder / "study.log"
    state = results.status(store)["state"]
    position = 0
    while not as_json:
        running = state == "running"
        position = _print_from(file, position)
        if not follow or not running:
            break
        time.sleep(POLL_S)
        state = results.state_of(store)
    if as_json:
        log = file.read_text(encoding="utf-8") if file.exists() else ""
        print_json({"study": store.folder.name, "state": state, "log": log})
    elif not file.exists():
        err.print(f"no log in {store.folder}", markup=False, highlight=False, soft_wrap=True)


def _print_from(file: Path, position: int) -> int:
    if not file.exists():
        return 0
    with file.open(encoding="utf-8", errors="replace") as lines:
        lines.seek(position)
        sys.stdout.write(masked(lines.read()))
        sys.stdout.flush()
        return lines.tell()


def _stop_by_folder(store: StudyStore, timeout: float) -> str:
    """Ask the study to stop, and wait until it is no longer running; the state it is then in."""
    from gam_ray.study import results

    results.status(store)  # says it if there is none
    if results.state_of(store) == "running":
        store.request_stop()
    deadline = time.monotonic() + timeout
    while (state := results.state_of(store)) == "running" and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return state


def _stop_job(jobs: Jobs, job: Job, timeout: float) -> Job:
    """Stop by the folder where it is seen from here, else, or if that was not heard, by Ray."""
    from gam_ray.study import results
    from gam_ray.study.store import StudyStore

    store = StudyStore(Path(job.folder))
    seen = (store.folder / "study.json").is_file() and results.state_of(store) == "running"
    if job.is_live and seen and _stop_by_folder(store, timeout) != "running":
        job = jobs.wait(job.job, timeout)
    return jobs.stop(job.job, timeout) if job.is_live else job


def _tell_stopped(
    study: str, state: str, timeout: float, *, as_json: bool, job: Job | None = None
) -> None:
    """Say how a study ended; code 1 if it has not."""
    live = job.is_live if job else state == "running"
    if as_json:
        print_json(job.to_mapping() if job else {"study": Path(study).stem, "state": state})
    elif live:
        err.print(
            f"{study} still runs after {timeout:g} s; it ends once its trials have written "
            "checkpoints: see `gam-ray status`, or wait with --timeout",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    else:
        say(f"{study}: {state}" + ("" if state in ("finished", "succeeded") else "; resumable"))
    if live:
        raise typer.Exit(FAILED)


def _doctor_job(
    address: str, config: StudyConfig | None, data_root: Path | None, *, send_code: bool
) -> list[Check]:
    """What `gam-ray doctor` finds where it runs as a job of the cluster."""
    from gam_ray.study import doctor as checks
    from gam_ray.study.jobs import Jobs, check_for_cluster, study_text

    if config:
        check_for_cluster(config, data_root)
    text = study_text(config) if config else None
    return checks.parse_report(Jobs(address).run_doctor(text, data_root, send_code=send_code))


def _print_checks(found: list[Check]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for check in found:
        told = Text(masked(check.found))
        if check.remedy:
            told.append(f"\n→ {masked(check.remedy)}", style="bold")
        state = Text(check.state, style=STATE_STYLES[check.state])
        table.add_row(state, Text(check.name), told)
    out.print(table)


def jobs_on(address: str) -> dict[str, Any]:
    """The studies of a cluster, for `list`."""
    from gam_ray.study.jobs import Jobs

    return {"jobs": [job.to_mapping() for job in Jobs(address).studies()]}
