"""The configuration: where it is found, what it means, and how its mistakes are said."""

import re
import tomllib
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from worker.errors import ConfigInvalid
from worker.settings import (
    EVENT_TYPES,
    NOTICE_TYPES,
    Cron,
    Endpoint,
    Every,
    Guard,
    Settings,
    Source,
    environment,
    find,
    load,
    template,
)

SECRET = "whsec_" + b64encode(b"k" * 24).decode()
FARM = """
[[sources]]
name = "farm"
dialect = "gestal"
base_url = "https://api.gestal.cloud"
email = "ops@example.com"
password = "pass-w0rd"
"""
VOICE = """
[[sources]]
name = "voice"
dialect = "aeontel"
base_url = "https://api.aeontel.example"
token = "t0ken"
"""
CRM = f"""
[[endpoints]]
name = "crm"
url = "https://crm.example.com/hooks/s3cret"
secrets = ["{SECRET}"]
"""

Read = Callable[..., Settings]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Loads a configuration text from a file."""

    def read(text: str, environ: Mapping[str, str] | None = None) -> Settings:
        path = tmp_path / "stocktake.toml"
        path.write_text(text, "utf-8")
        return load(path, environ or {})

    return read


def problems(read: Read, text: str, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigInvalid) as caught:
        read(text, environ)
    return caught.value.problems


def problem(read: Read, text: str, environ: Mapping[str, str] | None = None) -> str:
    (only,) = problems(read, text, environ)
    return only


def changed(table: str, line: str) -> str:
    """`table` with the line of the same key replaced by `line`, or with `line` added."""
    key = line.split(" = ")[0]
    kept = [old for old in table.splitlines() if not old.startswith(f"{key} = ")]
    return "\n".join([*kept, line, ""])


# Values


def test_only_a_source_is_needed(read: Read, tmp_path: Path) -> None:
    settings = read(FARM)

    assert settings.data_dir == tmp_path / "data"
    assert settings.state_url.get_secret_value() == f"sqlite:///{tmp_path}/data/private/state.db"
    assert settings.broker_url is None
    assert settings.endpoints == ()
    assert settings.schedule.incremental == Every(timedelta(minutes=1))
    assert settings.schedule.full == Every(timedelta(hours=1))
    assert settings.schedule.deliver == Every(timedelta(seconds=5))
    assert settings.schedule.prune == Cron("15 4 * * *")
    assert settings.deletion_guard == Guard(min_rows=10, max_share=0.10, max_count=1000)
    assert settings.metrics.address is None
    farm = settings.source("farm")
    assert (farm.requests_per_second, farm.max_concurrency, farm.page_size) == (5.0, 4, None)


def test_the_template_shows_every_key_with_its_default(read: Read) -> None:
    environ = {
        "GESTAL_EMAIL": "ops@example.com",
        "GESTAL_PASSWORD": "pass-w0rd",
        "CRM_WEBHOOK_SECRET": SECRET,
    }
    everything = re.sub(r"^#(?=[a-z\[])", "", template(), flags=re.MULTILINE)

    plain, full = read(template(), environ), read(everything, environ)

    assert (
        full.model_copy(
            update={
                "sources": plain.sources,
                "endpoints": (),
                "metrics": plain.metrics,
                "broker_url": None,
            }
        )
        == plain
    )
    assert full.guard_for(full.sources[0]) == plain.guard_for(plain.sources[0])
    assert full.schedule_for(full.sources[0]) == plain.schedule_for(plain.sources[0])
    written = tomllib.loads(everything)
    assert set(written) == set(Settings.model_fields)
    assert set(written["sources"][0]) == set(Source.model_fields) - {"token"}
    assert set(written["endpoints"][0]) == set(Endpoint.model_fields)
    for table in ("schedule", "deletion_guard", "publish", "retention", "metrics", "log"):
        assert set(written[table]) == set(type(getattr(full, table)).model_fields)


def test_the_defaults_of_an_endpoint_are_those_of_the_template(read: Read) -> None:
    everything = re.sub(r"^#(?=[a-z\[])", "", template(), flags=re.MULTILINE)
    environ = {"GESTAL_EMAIL": "e", "GESTAL_PASSWORD": "p", "CRM_WEBHOOK_SECRET": SECRET}

    shown = read(everything, environ).endpoint("crm")
    least = read(FARM + CRM).endpoint("crm")

    assert shown.model_copy(update={"url": least.url}) == least


def test_every_value_is_frozen(read: Read) -> None:
    settings = read(FARM + CRM + 'headers = { X-Team = "crm" }')

    for table in (settings, settings.sources[0], settings.endpoints[0], settings.retention):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(table, next(iter(type(table).model_fields)), "other")
    with pytest.raises(TypeError):
        settings.endpoints[0].headers["X-Team"] = None  # type: ignore[index]


def test_secrets_stay_out_of_the_representation(read: Read) -> None:
    settings = read(
        f'broker_url = "redis://:hunter2@h/0"\nstate_url = "postgresql+psycopg://u:hunter2@h/d"'
        f"{FARM}{VOICE}{CRM}"
        'headers = { Authorization = "Bearer hunter2" }'
    )

    shown = repr(settings) + str(settings)
    for secret in ("hunter2", "pass-w0rd", "t0ken", "s3cret", SECRET):
        assert secret not in shown
    assert settings.endpoints[0].origin == "https://crm.example.com"


def test_a_source_overrides_the_schedule_and_the_guard_key_by_key(read: Read) -> None:
    settings = read(
        f'{FARM}schedule = {{ incremental = "30s" }}\ndeletion_guard = {{ max_share = 0.5 }}\n'
        f"{VOICE}"
        '[schedule]\nfull = "2h"\n[deletion_guard]\nmin_rows = 3'
    )
    farm, voice = settings.sources

    assert settings.schedule_for(farm).incremental == Every(timedelta(seconds=30))
    assert settings.schedule_for(farm).full == Every(timedelta(hours=2))
    assert settings.schedule_for(voice) == settings.schedule
    assert settings.guard_for(farm) == Guard(min_rows=3, max_share=0.5, max_count=1000)
    assert settings.guard_for(voice) == settings.deletion_guard


def test_a_cron_expression_stands_wherever_an_interval_does(read: Read) -> None:
    settings = read(FARM + '[schedule]\nfull = "0  3 * * MON-FRI"')

    assert settings.schedule.full == Cron("0 3 * * MON-FRI")


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("5m", 300), ("1h", 3600), ("30d", 2_592_000), ("0s", 0)]
)
def test_durations_have_a_unit(text: str, seconds: int, read: Read) -> None:
    settings = read(f'{FARM}[publish]\nmin_interval = "{text}"')

    assert settings.publish.min_interval == timedelta(seconds=seconds)


def test_metrics_listen_on_a_host_and_a_port(read: Read) -> None:
    assert read(f'{FARM}[metrics]\nlisten = "[::1]:9464"').metrics.address == ("::1", 9464)


def test_numbers_may_be_ids_and_addresses_lose_a_trailing_slash(read: Read) -> None:
    farm = read(changed(FARM, 'base_url = "http://127.0.0.1:8080/"') + "integrations = [7]")

    assert farm.source("farm").integrations == ("7",)
    assert farm.source("farm").base_url == "http://127.0.0.1:8080"


@pytest.mark.parametrize("kind", ["source", "endpoint"])
def test_an_unknown_name_is_refused_with_the_nearest_one(kind: str, read: Read) -> None:
    settings = read(FARM + CRM)

    with pytest.raises(ConfigInvalid) as caught:
        getattr(settings, kind)({"source": "frm", "endpoint": "cmr"}[kind])

    assert f"did you mean {'farm' if kind == 'source' else 'crm'}?" in str(caught.value)


# Places


def test_the_environment_is_read_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKTAKE_PROBE", "here")

    assert environment()["STOCKTAKE_PROBE"] == "here"


def test_the_first_file_there_is_gets_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {"HOME": str(tmp_path / "home")}
    home = tmp_path / "home" / ".config" / "stocktake" / "stocktake.toml"
    xdg = tmp_path / "xdg" / "stocktake" / "stocktake.toml"
    named = tmp_path / "named.toml"
    for path in (home, xdg, named):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    assert find(None, environ) == home
    environ["XDG_CONFIG_HOME"] = str(tmp_path / "xdg")
    assert find(None, environ) == xdg
    Path("stocktake.toml").touch()
    assert find(None, environ) == Path("stocktake.toml")
    environ["STOCKTAKE_CONFIG"] = str(named)
    assert find(None, environ) == named
    assert find(home, environ) == home


def test_no_file_is_said_with_the_places_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigInvalid) as caught:
        find(None, {"HOME": str(tmp_path)})

    looked = "\n".join(caught.value.problems)
    assert "looked at stocktake.toml" in looked
    assert f"looked at {tmp_path}/.config/stocktake/stocktake.toml" in looked
    assert "looked at /etc/stocktake/stocktake.toml" in looked
    assert "stocktake init" in looked


def test_a_file_that_was_named_is_not_replaced_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stocktake.toml").touch()
    missing = tmp_path / "missing.toml"

    with pytest.raises(ConfigInvalid, match=f"looked at {missing}"):
        find(missing, {})
    with pytest.raises(ConfigInvalid, match=f"looked at {missing}"):
        find(None, {"STOCKTAKE_CONFIG": str(missing)})


def test_relative_paths_are_relative_to_the_file(read: Read, tmp_path: Path) -> None:
    settings = read('data_dir = "here"\nstate_url = "sqlite:///there/state.db"' + FARM)

    assert settings.store_path == tmp_path / "here" / "private" / "store.duckdb"
    assert settings.published_path == tmp_path / "here" / "published" / "warehouse.duckdb"
    assert settings.spool_dir == tmp_path / "here" / "private" / "spool"
    assert settings.state_url.get_secret_value() == f"sqlite:///{tmp_path}/there/state.db"


def test_absolute_paths_stay(read: Read) -> None:
    settings = read('data_dir = "/srv/s"\nstate_url = "sqlite:////srv/state.db"' + FARM)

    assert settings.data_dir == Path("/srv/s")
    assert settings.state_url.get_secret_value() == "sqlite:////srv/state.db"


def test_the_state_directory_of_systemd_is_the_default_data_dir(read: Read) -> None:
    environ = {"STATE_DIRECTORY": "/var/lib/stocktake:/var/lib/more"}

    assert read(FARM, environ).data_dir == Path("/var/lib/stocktake")
    assert read('data_dir = "/srv/s"' + FARM, environ).data_dir == Path("/srv/s")


# Variables


@pytest.mark.parametrize(
    ("written", "environ", "value"),
    [
        ("${WHO}", {"WHO": "ann"}, "ann"),
        ("a-${WHO}-${AT}", {"WHO": "ann", "AT": "x"}, "a-ann-x"),
        ("${WHO:-bob}", {}, "bob"),
        ("${WHO:-bob}", {"WHO": ""}, "bob"),
        ("${WHO:-bob}", {"WHO": "ann"}, "ann"),
        ("${WHO:-}x", {}, "x"),
        ("$$", {}, "$"),
        ("$${WHO}", {"WHO": "ann"}, "${WHO}"),
        ("$WHO", {"WHO": "ann"}, "$WHO"),
        ("${WHO}", {"WHO": "${AT}"}, "${AT}"),
    ],
)
def test_variables_are_replaced(
    written: str, environ: dict[str, str], value: str, read: Read
) -> None:
    settings = read(changed(FARM, f'email = "{written}"'), environ)

    assert settings.source("farm").email == value


def test_variables_are_replaced_wherever_a_string_stands(read: Read) -> None:
    settings = read(
        f'{FARM}redact = ["${{X}}"]\nschedule = {{ full = "${{T}}" }}\npage_size = "${{N}}"\n{CRM}'
        'headers = { X-Key = "${X}" }',
        {"X": "a.b", "T": "2h", "N": "50"},
    )

    assert settings.source("farm").redact == ("a.b",)
    assert settings.source("farm").page_size == 50
    assert settings.schedule_for(settings.source("farm")).full == Every(timedelta(hours=2))
    assert settings.endpoint("crm").headers["X-Key"].get_secret_value() == "a.b"


@pytest.mark.parametrize("content", ["ann", "ann\n", "ann\r\n"])
def test_a_variable_comes_from_the_file_that_its_file_variable_names(
    content: str, read: Read, tmp_path: Path
) -> None:
    (tmp_path / "who").write_bytes(content.encode())
    environ = {"WHO_FILE": str(tmp_path / "who")}

    for written in ("${WHO}", "${WHO:-bob}"):
        settings = read(changed(FARM, f'email = "{written}"'), environ)
        assert settings.source("farm").email == "ann"


def test_the_variable_goes_before_its_file(read: Read) -> None:
    environ = {"WHO": "ann", "WHO_FILE": "/nowhere"}

    assert read(changed(FARM, 'email = "${WHO}"'), environ).source("farm").email == "ann"


def test_a_missing_variable_is_named_with_its_key_and_said_once(read: Read) -> None:
    text = changed(FARM, 'dialect = "${DIALECT}"')

    assert problem(read, text) == (
        "[[sources]] farm: dialect: environment variable DIALECT is not set, nor is DIALECT_FILE"
    )


def test_an_unreadable_variable_file_is_named(read: Read, tmp_path: Path) -> None:
    environ = {"WHO_FILE": str(tmp_path / "gone")}

    said = problem(read, changed(FARM, 'email = "${WHO}"'), environ)

    assert f"cannot read {tmp_path}/gone, which WHO_FILE names" in said


@pytest.mark.parametrize("written", ["${", "${}", "${9}", "${WHO", "${WHO:+x}", "${A B}"])
def test_a_malformed_reference_is_a_problem(written: str, read: Read) -> None:
    said = problem(read, changed(FARM, f'email = "{written}"'), {"WHO": "ann"})

    assert said.startswith("[[sources]] farm: email: expected ${NAME}")


# Problems


def test_all_problems_are_reported_at_once(read: Read) -> None:
    said = problems(
        read,
        f"""
        colour = 1
        {changed(FARM, 'email = "${GONE}"')}
        page_size = 5000
        pagesize = 3
        {VOICE}
        {VOICE}
        [schedule]
        full = "soon"
        [metrics]
        listen = "9464"
        {CRM}
        sources = ["vioce"]
        """,
    )

    assert [line.partition(" = ")[0].partition(": expected")[0] for line in said] == [
        "[[sources]] farm: email: environment variable GONE is not set, nor is GONE_FILE",
        "[[sources]] farm: page_size",
        "[[sources]] farm: pagesize: unknown key; did you mean page_size?",
        "[schedule] full",
        "[metrics] listen",
        "colour: unknown key",
        "[[sources]] voice: name",
        "[[endpoints]] crm: sources[0]",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('name = "Farm!"', 'name = "Farm!": expected a name of a-z'),
        ('dialect = "gestall"', "dialect = \"gestall\": expected 'gestal' or 'aeontel'"),
        ('base_url = "http://h.example"', 'base_url = "http://h.example": expected https://'),
        ('base_url = "ftp://h.example"', "expected https://host"),
        ('base_url = "https://h.example?x=1"', "expected no query"),
        ('base_url = "https://h.example:port"', "expected https://host or https://host:port"),
        ('base_url = "https://u:hunter2@h.example"', "base_url = (hidden): expected no user name"),
        ('email = ""', "expected a value, but it is empty"),
        ('token = "hunter2"', "token = (hidden): does not belong to a gestal source"),
        ("page_size = 0", "page_size = 0: expected 1 to 1000 for a gestal source"),
        ("page_size = 1001", "expected 1 to 1000"),
        ("requests_per_second = -1", "requests_per_second = -1: expected greater than or equal"),
        ("max_concurrency = 0", "max_concurrency = 0: expected greater than or equal to 1"),
        ("max_concurrency = 33", "max_concurrency = 33: expected less than or equal to 32"),
        ('redact = ["a..b"]', 'redact[0] = "a..b": expected a path'),
        ('redact = "a"', 'redact = "a": expected a list'),
        ('redact = ["note", "cloud_id"]', "`cloud_id` must stay: installs and their state"),
        ('redact = ["*"]', "`*` must stay"),
        ('ignore = ["*"]', "`*` would ignore every change"),
        ("allow_htp = true", "allow_htp: unknown key; did you mean allow_http?"),
        ('schedule = { ful = "1h" }', "schedule.ful: unknown key; did you mean full?"),
        ('schedule = { full = "0s" }', "expected an interval longer than nothing"),
        ("schedule = { full = 60 }", "schedule.full = 60: expected a duration such as"),
        ("deletion_guard = { max_share = 2 }", "deletion_guard.max_share = 2: expected less than"),
        ("password = 5", "password = (hidden): expected a valid string"),
    ],
)
def test_a_wrong_line_of_a_source_is_said_with_its_key(line: str, said: str, read: Read) -> None:
    assert said in problem(read, changed(FARM, line))


def test_each_dialect_has_its_own_login(read: Read) -> None:
    bare = '[[sources]]\nname = "x"\nbase_url = "https://h.example"\n'

    assert problems(read, bare + 'dialect = "gestal"') == (
        "[[sources]] x: email: missing: a gestal source logs in with it",
        "[[sources]] x: password: missing: a gestal source logs in with it",
    )
    assert problems(read, bare + 'dialect = "aeontel"') == (
        "[[sources]] x: token: missing: a aeontel source logs in with it",
    )


def test_an_aeontel_page_has_up_to_100_rows(read: Read) -> None:
    assert "expected 1 to 100 " in problem(read, VOICE + "page_size = 101")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3:80", "[::1]:80", "localhost:8080"])
def test_http_to_this_machine_needs_no_permission(host: str, read: Read) -> None:
    settings = read(changed(FARM, f'base_url = "http://{host}"'))

    assert settings.sources[0].base_url == f"http://{host}"


def test_http_to_another_machine_needs_allow_http(read: Read) -> None:
    http = changed(FARM, 'base_url = "http://127.0.0.1.example"')

    assert "allow_http" in problem(read, http)
    assert read(changed(http, "allow_http = true")).sources[0].allow_http


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('url = "http://h.example/s3cret"', "url = http://h.example/…: expected https://"),
        ('url = "https://u:s3cret@h.example/"', "url = https://h.example/…: expected no user name"),
        ('url = "s3cret"', "url = (hidden): expected https://host"),
        ('url = "http://127.0.0.1:9/s3cret"', "expected https://"),
        ('secrets = ["s3cret"]', "secrets[0] = (hidden): expected whsec_"),
        (f'secrets = ["{SECRET}", "whsec_c2hvcnQ="]', "secrets[1] = (hidden): expected whsec_"),
        (f'secrets = "{SECRET}"', "secrets = (hidden): expected a list"),
        ("secrets = []", "secrets: missing: deliveries are signed"),
        ('events = ["instal.*"]', 'events[0] = "instal.*": matches none of install.created'),
        ('sources = ["voice"]', 'sources[0] = "voice": matches none of the sources: farm'),
        ('format = "slak"', "format = \"slak\": expected 'standard' or 'slack'"),
        ('headers = { Host = "s3cret" }', "headers: Host is reserved"),
        ('headers = { Content-Type = "s3cret" }', "headers: Content-Type is reserved"),
        ('headers = { Webhook-Id = "s3cret" }', "headers: Webhook-Id is reserved"),
        ('headers = { stocktake-x = "s3cret" }', "headers: stocktake-x is reserved"),
        ('headers = { webhook_id = "s3cret" }', "headers: webhook_id is reserved"),
        ('headers = { X-Key = "a", x_key = "s3cret" }', "headers: x_key is there twice"),
        ('headers = { X-Key = " s3cret" }', "the value of X-Key begins or ends with a space"),
        ('headers = { "a b" = "s3cret" }', "headers: 'a b' is no header name"),
        ('headers = { X-Key = "s3cret\\n" }', "the value of X-Key has control"),
        ('headers = "s3cret"', "headers = (hidden): expected a table"),
        ("max_per_minute = -1", "max_per_minute = -1: expected greater than or equal to 0"),
        ("max_in_flight = 0", "max_in_flight = 0: expected greater than or equal to 1"),
    ],
)
def test_a_wrong_line_of_an_endpoint_is_said_without_its_secrets(
    line: str, said: str, read: Read
) -> None:
    shown = problem(read, FARM + changed(CRM, line))

    assert f"[[endpoints]] crm: {said}" in shown or said in shown
    assert "s3cret" not in shown
    assert SECRET not in shown


def encoded(length: int) -> str:
    return b64encode(bytes(range(length))).decode()


@pytest.mark.parametrize("length", [24, 32, 33, 64])
def test_a_secret_is_the_base64_of_24_to_64_bytes(length: int, read: Read) -> None:
    crm = changed(CRM, f'secrets = ["whsec_{encoded(length)}"]')

    assert len(read(FARM + crm).endpoint("crm").secrets) == 1


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        encoded(32),
        f"WHSEC_{encoded(32)}",
        f"whsk_{encoded(32)}",
        f"whsec_{encoded(23)}",
        f"whsec_{encoded(65)}",
        f"whsec_{encoded(32)[:-1]}",
        f"whsec_{encoded(32)}=",
        f"whsec_{encoded(24)}=",
        f"whsec_{b64encode(b'a' * 23 + b'?' * 10).decode().replace('/', '_')}",
        f"whsec_{encoded(32).replace('A', '-', 1)}",
        f" whsec_{encoded(32)}",
        f"whsec_{encoded(32)} ",
        f"whsec_ {encoded(32)}",
        f"whsec_{encoded(32)[:8]} {encoded(32)[8:]}",
        f"whsec_{encoded(32)}\\n",
        f"whsec_{encoded(32)[:-4]}é===",
    ],
)
def test_a_malformed_secret_is_refused(secret: str, read: Read) -> None:
    shown = problem(read, FARM + changed(CRM, f'secrets = ["{secret}"]'))

    assert "secrets[0] = (hidden): expected whsec_ and the base64 of 24 to 64 bytes" in shown
    assert encoded(32)[:8] not in shown


# All that says where a body ends, or belongs to the connection alone, or is signed.
OURS = [
    "Accept-Encoding", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Expect",
    "HTTP2-Settings", "Host", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "TE",
    "Trailer", "Transfer-Encoding", "Upgrade", "User-Agent", "Webhook-Id", "Webhook-Signature",
    "Webhook-Timestamp", "Stocktake-Attempt", "Stocktake-Event-Type", "Stocktake-Replay",
]  # fmt: skip


@pytest.mark.parametrize("spelt", [str.title, str.upper, str.lower, lambda x: x.replace("-", "_")])
@pytest.mark.parametrize("name", OURS)
def test_a_header_of_ours_cannot_be_set_in_any_spelling(
    name: str, spelt: Callable[[str], str], read: Read
) -> None:
    line = f'headers = {{ "{spelt(name)}" = "s3cret" }}'

    assert f"headers: {spelt(name)} is reserved" in problem(read, FARM + changed(CRM, line))


@pytest.mark.parametrize(
    "name", ["Host ", " Host", "Host\\t", "Host:", "Ho\\u0000st", "Høst", ":authority", ""]
)
def test_what_is_no_header_name_is_refused(name: str, read: Read) -> None:
    line = f'headers = {{ "{name}" = "s3cret" }}'

    assert "is no header name" in problem(read, FARM + changed(CRM, line))


@pytest.mark.parametrize(
    "value", ["a\\r\\nHost: x", "a\\nb", "a\\u0000", "a\\u007f", "ø", "a\\u0085"]
)
def test_a_header_value_cannot_begin_another_line(value: str, read: Read) -> None:
    line = f'headers = {{ X-Key = "{value}" }}'

    assert "the value of X-Key has control" in problem(read, FARM + changed(CRM, line))


def test_slack_needs_no_secret(read: Read) -> None:
    crm = changed(changed(CRM, "secrets = []"), 'format = "slack"')

    assert read(FARM + crm).endpoint("crm").secrets == ()


@pytest.mark.parametrize("glob", ["*", "install.*", "*.deleted", *EVENT_TYPES, *NOTICE_TYPES])
def test_globs_over_every_known_type_are_accepted(glob: str, read: Read) -> None:
    settings = read(FARM + changed(CRM, f'events = ["{glob}"]'))

    assert settings.endpoint("crm").events == (glob,)


def test_a_value_from_the_environment_is_never_shown(read: Read) -> None:
    farm = changed(FARM, 'name = "${NAME}"')
    text = changed(farm, 'max_concurrency = "${MANY}"')

    said = problems(read, text, {"NAME": "hunter2!", "MANY": "hunter2"})

    assert "[[sources]] #1: name = (hidden): expected a name" in said[0]
    assert "[[sources]] #1: max_concurrency = (hidden): expected a valid integer" in said[1]
    assert "hunter2" not in "".join(said)


@pytest.mark.parametrize(
    "line",
    [
        'broker_url = "amqp://u:hunter2@h"',
        'state_url = "mysql://u:hunter2@h"',
        'pasword = "hunter2"',
        "data_dir = 5",
        "sources = 5",
        "endpoints = [5]",
        "schedule = 5",
        "log = []",
    ],
)
def test_a_wrong_top_level_key_is_said_without_its_secret(line: str, read: Read) -> None:
    shown = "\n".join(problems(read, line + ("" if "sources" in line else FARM)))

    assert line.partition(" = ")[0] in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize("text", ["", "sources = []"])
def test_at_least_one_source_is_needed(text: str, read: Read) -> None:
    assert problem(read, text).startswith("sources: ")


@pytest.mark.parametrize(
    "expression", ["61 4 * * *", "* * * *", "0 0 31 2 *", "0 0 * * MOON", "@daily"]
)
def test_a_wrong_cron_expression_is_a_problem(expression: str, read: Read) -> None:
    said = problem(read, f'{FARM}[schedule]\nprune = "{expression}"')

    assert "[schedule] prune" in said
    assert "cron expression of" in said


@pytest.mark.parametrize("text", ["30", "1.5h", "-1s", "1w", "1 h", "", "999999999d"])
def test_a_wrong_duration_is_a_problem(text: str, read: Read) -> None:
    said = problem(read, f'{FARM}[retention]\nruns = "{text}"')

    assert said.startswith(f'[retention] runs = "{text}": expected a')


def test_broken_toml_is_said_with_line_and_column(read: Read, tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        read('data_dir = "x"\nbroker_url = \n')

    assert caught.value.where == str(tmp_path / "stocktake.toml")
    assert "at line 2, column 14" in caught.value.problems[0]


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'# caf\xe9\nx = "1"')

    with pytest.raises(ConfigInvalid, match="not UTF-8"):
        load(tmp_path / "latin.toml", {})
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        load(tmp_path, {})
