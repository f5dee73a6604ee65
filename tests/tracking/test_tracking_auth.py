"""A server that wants an account, and where its password must not show."""

import json
from collections.abc import Iterator

import pytest
from servers import AUTH_APP, Server
from tracking_bench import PATIENCE_S, ROWS, RUNS, Bench, a_study, append, wait_for

from gam_ray.tracking import mask_credentials, read_status, without_credentials

PASSWORD = "very-secret-p@ss"  # noqa: S105 - of a server that this test starts
ESCAPED = "very-secret-p%40ss"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with MLflow's own accounts; what `--app-name basic-auth` starts."""
    pytest.importorskip("flask_wtf", reason="pip install 'mlflow[auth]'")
    folder = tmp_path_factory.mktemp("a server with accounts")
    (folder / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
        f"admin_password = {PASSWORD}\ndatabase_uri = sqlite:///{folder}/accounts.db\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    settings = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "for the test",
    }
    server = Server(folder, f"sqlite:///{folder}/mlflow.db", AUTH_APP, settings)
    try:
        server.start()
        server.wait()
        yield server
    finally:
        server.kill()


@pytest.mark.slow
def test_accounts_reach_the_server_and_nothing_else(
    served: Server,
    served_bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench, folder = served_bench, served_bench.folder / "queue"
    caplog.set_level("DEBUG", logger="gam_ray")
    append(bench, *a_study()[:10])
    address = served.uri.removeprefix("http://")

    for uri in (served.uri, f"http://admin:wrong-secret@{address}"):
        refused = bench.make_sink(uri)
        refused.start()
        wait_for(lambda sink=refused: sink.status().failures > 0)  # type: ignore[misc]
        assert "the server wants an account" in str(refused.status().last_error)
        assert refused.close(0).waiting == 10
        assert read_status(folder).failing

    named = bench.make_sink(f"http://admin:{ESCAPED}@{address}")
    named.start()
    assert named.drain(PATIENCE_S), named.status()
    named.close(1)

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    append(bench, *a_study()[10:])
    carrier = bench.make_sink()
    carrier.start()
    assert carrier.drain(PATIENCE_S), carrier.status()
    carrier.close(1)
    assert bench.rows() == ROWS
    assert bench.runs() == RUNS
    assert read_status(folder).uri == served.uri
    written = [caplog.text, *(file.read_text() for file in folder.iterdir())]
    assert not [text for text in written if "secret" in text]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@host:5000/api failed", "http://host:5000/api failed"),
        ("http://me:se@cret@host/", "http://host/"),
        ("http://secret-token@host", "http://host"),
        (
            "postgresql://host/db?user=me&password=secret&sslmode=on",
            "postgresql://host/db?user=me&password=***&sslmode=on",
        ),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("nobody@example.com asks http://host/a@b", "nobody@example.com asks http://host/a@b"),
    ],
)
def test_credentials_are_masked(text: str, shown: str) -> None:
    assert mask_credentials(text) == shown


def test_known_secrets_are_masked_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tok-1234")
    text = f"login failed for admin/{PASSWORD} with Bearer tok-1234 ({ESCAPED})"
    shown = mask_credentials(text, f"http://admin:{ESCAPED}@host")
    assert shown == "login failed for admin/*** with Bearer *** (***)"


def test_json_is_masked_at_any_depth() -> None:
    address = "http://me:se/cret?@host/path"
    content = {"tracking": {"uri": address}, "list": [address, 1, None], "n": 1.5}
    masked = without_credentials(content)
    assert "cret" not in json.dumps(masked)
    assert masked["n"] == 1.5
    assert masked["tracking"]["uri"].endswith("host/path")
