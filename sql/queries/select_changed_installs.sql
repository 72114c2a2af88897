-- Staged installs that may differ from what is kept. Unchanged rows never leave the database.
select
    staged.scope,
    staged.id,
    spooled."row",
    kept.*
from staged
join spooled on spooled.rowid = staged.spool_row
left join installs as kept on kept.source = $source and kept.install_id = staged.id
where
    staged.kind = 'install'
    and (
        staged.digest is distinct from staged.kept_digest
        or staged.scope is distinct from staged.kept_scope
        or kept.deletion_inferred
        or staged.gone
    )
order by staged.observed_at, staged.ordinal desc, staged.id
