-- The first schema: what analysts read (main) and what only the walk needs (private).
create schema private;

create table private.store (
    store_id varchar not null,
    schema_version integer not null,
    commit_number bigint not null,
    committed_at timestamptz not null
);
comment on table private.store is 'One row: which store this is, and its newest commit';

create table private.fences (
    source varchar primary key,
    fence bigint not null,
    round bigint not null
);
comment on table private.fences is 'Per source: the newest lease that committed (a delayed process cannot commit over a newer walk) and how many commits there were';

create table private.scopes (
    source varchar not null,
    scope varchar not null,
    announced_from timestamptz,
    baseline boolean,
    full_at timestamptz,
    unsure boolean,
    primary key (source, scope)
);
comment on table private.scopes is 'Per listing: since when created events are announced, whether that ended a baseline, the newest certified full walk, and whether one without a certificate came after it';

create table private.sightings (
    source varchar not null,
    kind varchar not null,
    id varchar not null,
    scope varchar not null,
    observed_at timestamptz not null,
    seen_at timestamptz not null,
    digest varchar not null,
    rank bigint,
    suspected_round bigint
);
comment on table private.sightings is 'Per object: its newest observation (a 404 is one), when it was last seen, the digest of its text, its place in the listing (the smallest is newest), and the commit that made it a suspect';

create table installs (
    source varchar not null,
    install_id varchar not null,
    integration_id varchar,
    version_id varchar,
    account_id varchar,
    account_name varchar,
    site_id varchar,
    site_name varchar,
    installed_by varchar,
    member_policy varchar,
    retention_tier varchar,
    parent_install_id varchar,
    solution_id varchar,
    auth_state_id varchar,
    installed_at timestamptz,
    upgraded_at timestamptz,
    deleted_at timestamptz,
    purged_at timestamptz,
    state varchar not null,
    deletion_inferred boolean not null,
    missing_since timestamptz,
    revision integer not null,
    first_seen_at timestamptz not null,
    last_changed_at timestamptz not null,
    row_hash varchar not null,
    variables json,
    payload json,
    primary key (source, install_id)
);
comment on table installs is 'One row per install ever seen, deleted ones included';
comment on column installs.source is 'The configured source it was read from';
comment on column installs.install_id is 'Its id at the source';
comment on column installs.integration_id is 'The integration that is installed';
comment on column installs.version_id is 'The installed version (Aeontel)';
comment on column installs.account_id is 'Who installed it: tenant (Gestal) or workspace (Aeontel)';
comment on column installs.account_name is 'The name of the account';
comment on column installs.site_id is 'The site it is activated on (Gestal)';
comment on column installs.site_name is 'The name of the site';
comment on column installs.installed_by is 'The user who installed it (Aeontel)';
comment on column installs.member_policy is 'auto_all, auto_defaults or manual (Aeontel)';
comment on column installs.retention_tier is 'short, medium, long or none (Aeontel)';
comment on column installs.parent_install_id is 'The install it belongs to (Aeontel)';
comment on column installs.solution_id is 'The solution that groups its members (Aeontel)';
comment on column installs.auth_state_id is 'Its authorisation state (Aeontel)';
comment on column installs.installed_at is 'When it was installed, as the source says';
comment on column installs.upgraded_at is 'When it was last upgraded, as the source says';
comment on column installs.deleted_at is 'Null exactly while active: when it was deleted, as the source says, else when its absence was first seen';
comment on column installs.purged_at is 'When it was found to be purged';
comment on column installs.state is 'active, deleted or purged';
comment on column installs.deletion_inferred is 'The deletion was concluded from its absence';
comment on column installs.missing_since is 'Absent since then, but not proven gone (a suspect)';
comment on column installs.revision is 'How many different states were recorded';
comment on column installs.first_seen_at is 'The commit that first recorded it';
comment on column installs.last_changed_at is 'The commit that recorded this revision';
comment on column installs.row_hash is 'Hash of the payload without ignored paths';
comment on column installs.variables is 'The variables it is configured with (Aeontel)';
comment on column installs.payload is 'The row as received, after redaction';

create table install_revisions as
select *, null::timestamptz as valid_to from installs limit 0;
comment on table install_revisions is 'Superseded revisions of installs, each valid from last_changed_at to valid_to; read install_history';
comment on column install_revisions.valid_to is 'The commit that superseded it';

create table integrations (
    source varchar not null,
    integration_id varchar not null,
    name varchar,
    url varchar,
    description varchar,
    slug varchar,
    publisher varchar,
    current_version varchar,
    visibility varchar,
    trust_tier varchar,
    workspace_id varchar,
    created_at timestamptz,
    updated_at timestamptz,
    deleted_at timestamptz,
    state varchar not null,
    deletion_inferred boolean not null,
    revision integer not null,
    first_seen_at timestamptz not null,
    last_changed_at timestamptz not null,
    row_hash varchar not null,
    payload json,
    primary key (source, integration_id)
);
comment on table integrations is 'One row per integration ever seen, deleted ones included';
comment on column integrations.source is 'The configured source it was read from';
comment on column integrations.integration_id is 'Its id at the source';
comment on column integrations.name is 'Its name as customers see it';
comment on column integrations.url is 'The address of the product';
comment on column integrations.description is 'Its description as customers see it';
comment on column integrations.slug is 'Its short name (Aeontel)';
comment on column integrations.publisher is 'Who publishes it (Aeontel)';
comment on column integrations.current_version is 'The published version; null: never published (Aeontel)';
comment on column integrations.visibility is 'private, public or unlisted (Aeontel)';
comment on column integrations.trust_tier is 'How far the platform trusts its publisher (Aeontel)';
comment on column integrations.workspace_id is 'The workspace that owns it (Aeontel)';
comment on column integrations.created_at is 'When it was created, as the source says';
comment on column integrations.updated_at is 'When it was last updated, as the source says';
comment on column integrations.deleted_at is 'Null exactly while active';
comment on column integrations.state is 'active or deleted';
comment on column integrations.deletion_inferred is 'The deletion was concluded from a 404';
comment on column integrations.revision is 'How many different states were recorded';
comment on column integrations.first_seen_at is 'The commit that first recorded it';
comment on column integrations.last_changed_at is 'The commit that recorded this revision';
comment on column integrations.row_hash is 'Hash of the payload without ignored paths';
comment on column integrations.payload is 'The row as received, after redaction';

create table events (
    sequence bigint primary key,
    event_id varchar not null,
    type varchar not null,
    source varchar not null,
    integration_id varchar,
    install_id varchar,
    revision integer not null,
    occurred_at timestamptz,
    detected_at timestamptz not null,
    deletion_inferred boolean not null,
    baseline boolean not null,
    changed_fields varchar[] not null,
    before json,
    after json,
    run_id varchar not null
);
comment on table events is 'Every change of an install or integration, append-only';
comment on column events.sequence is 'Without gaps, in the order of the commits';
comment on column events.event_id is 'Never repeats; the webhook-id of its deliveries';
comment on column events.type is 'install.created, .upgraded, .updated, .deleted, .restored, .purged; integration.created, .updated, .deleted, .restored';
comment on column events.source is 'The configured source';
comment on column events.integration_id is 'The integration, or the integration of the install';
comment on column events.install_id is 'The install; null for an event of an integration';
comment on column events.revision is 'The revision that this change made';
comment on column events.occurred_at is 'When it happened, if the source says so';
comment on column events.detected_at is 'The time of the commit';
comment on column events.deletion_inferred is 'Concluded from an absence (or: took such a conclusion back)';
comment on column events.baseline is 'Found by the first walk of its listing: recorded, not delivered';
comment on column events.changed_fields is 'The columns that this event announces as changed';
comment on column events.before is 'The columns before, null for created';
comment on column events.after is 'The columns after';
comment on column events.run_id is 'The run that saw it';

create table sync_runs (
    run_id varchar primary key,
    source varchar not null,
    scope varchar not null,
    mode varchar not null,
    outcome varchar not null,
    certificate varchar not null,
    evidence json,
    started_at timestamptz not null,
    finished_at timestamptz,
    requests bigint not null,
    pages bigint not null,
    seen bigint not null,
    total bigint,
    created bigint not null,
    upgraded bigint not null,
    updated bigint not null,
    deleted bigint not null,
    restored bigint not null,
    purged bigint not null,
    held bigint not null,
    suspects bigint not null,
    error varchar
);
comment on table sync_runs is 'Every run over one listing, whatever its outcome; filled when the copy is published';
comment on column sync_runs.run_id is 'The run';
comment on column sync_runs.source is 'The configured source';
comment on column sync_runs.scope is 'The listing: integrations, installs, or installs/<integration_id>';
comment on column sync_runs.mode is 'full or incremental';
comment on column sync_runs.outcome is 'ok, unchanged, held, partial, rate_limited or failed';
comment on column sync_runs.certificate is 'What the walk can prove: pristine, repaired, keyset or none';
comment on column sync_runs.evidence is 'Why there is, or is no, certificate; timings';
comment on column sync_runs.started_at is 'When the walk began';
comment on column sync_runs.finished_at is 'When its commit was done';
comment on column sync_runs.requests is 'Requests that were made';
comment on column sync_runs.pages is 'Pages the listing has';
comment on column sync_runs.seen is 'Different objects that were seen';
comment on column sync_runs.total is 'How many the source says there are';
comment on column sync_runs.created is 'Created events recorded';
comment on column sync_runs.upgraded is 'Upgraded events recorded';
comment on column sync_runs.updated is 'Updated events recorded';
comment on column sync_runs.deleted is 'Deleted events recorded';
comment on column sync_runs.restored is 'Restored events recorded';
comment on column sync_runs.purged is 'Purged events recorded';
comment on column sync_runs.held is 'Absences that wait for a person';
comment on column sync_runs.suspects is 'Rows absent but not proven gone';
comment on column sync_runs.error is 'What went wrong';

create table sources (
    source varchar primary key,
    dialect varchar not null,
    last_synced_at timestamptz,
    last_full_at timestamptz,
    active_installs bigint not null,
    published_at timestamptz not null
);
comment on table sources is 'One row per source with its freshness; filled when the copy is published';
comment on column sources.source is 'The configured source';
comment on column sources.dialect is 'gestal or aeontel';
comment on column sources.last_synced_at is 'When a sync last ended well';
comment on column sources.last_full_at is 'When every listing had last been walked in full with a certificate';
comment on column sources.active_installs is 'Active installs now';
comment on column sources.published_at is 'When this copy was made';

create table holds (
    hold_id varchar primary key,
    source varchar not null,
    scope varchar not null,
    opened_at timestamptz not null,
    installs bigint not null,
    share double not null,
    status varchar not null,
    decided_at timestamptz
);
comment on table holds is 'Absences that look like an accident and wait for a person; filled when the copy is published';
comment on column holds.hold_id is 'What approve and reject take';
comment on column holds.source is 'The configured source';
comment on column holds.scope is 'The listing';
comment on column holds.opened_at is 'When the absences were held back';
comment on column holds.installs is 'How many there are';
comment on column holds.share is 'Their share of the active rows of the listing';
comment on column holds.status is 'open, approved or rejected';
comment on column holds.decided_at is 'When a person decided';

create table publication (
    store_id varchar not null,
    commit_number bigint not null,
    published_at timestamptz not null
);
comment on table publication is 'One row in a published copy: which commit of which store it shows';
comment on column publication.store_id is 'The random name of the store';
comment on column publication.commit_number is 'Raised by every commit that changed something';
comment on column publication.published_at is 'When this copy was made';
