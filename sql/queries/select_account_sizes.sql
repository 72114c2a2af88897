-- Active installs per account that has an install which answered 404.
select account_id, count(*)
from installs
where
    source = $source
    and state = 'active'
    and account_id in (
        select kept.account_id
        from installs as kept
        join staged on staged.kind = 'install' and staged.gone and staged.id = kept.install_id
        where kept.source = $source
    )
group by account_id
