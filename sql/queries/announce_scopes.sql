-- From the next commit on, created events of these listings are announced.
insert into private.scopes (source, scope, announced_from, baseline)
select $source, unnest($scopes), $commit_at, $baseline
on conflict do update set
    announced_from = coalesce(announced_from, excluded.announced_from),
    baseline = coalesce(baseline, excluded.baseline)
