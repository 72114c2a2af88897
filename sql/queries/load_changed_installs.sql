-- Loads the new revisions of installs that the plan wrote.
create or replace temp table changed_installs as
select *
from read_json(
    $paths,
    format = 'newline_delimited',
    columns = {
        source: 'VARCHAR',
        install_id: 'VARCHAR',
        integration_id: 'VARCHAR',
        version_id: 'VARCHAR',
        account_id: 'VARCHAR',
        account_name: 'VARCHAR',
        site_id: 'VARCHAR',
        site_name: 'VARCHAR',
        installed_by: 'VARCHAR',
        member_policy: 'VARCHAR',
        retention_tier: 'VARCHAR',
        parent_install_id: 'VARCHAR',
        solution_id: 'VARCHAR',
        auth_state_id: 'VARCHAR',
        installed_at: 'TIMESTAMPTZ',
        upgraded_at: 'TIMESTAMPTZ',
        deleted_at: 'TIMESTAMPTZ',
        purged_at: 'TIMESTAMPTZ',
        state: 'VARCHAR',
        deletion_inferred: 'BOOLEAN',
        missing_since: 'TIMESTAMPTZ',
        revision: 'INTEGER',
        first_seen_at: 'TIMESTAMPTZ',
        last_changed_at: 'TIMESTAMPTZ',
        row_hash: 'VARCHAR',
        variables: 'JSON',
        payload: 'JSON'
    }
)
