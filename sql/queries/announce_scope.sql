-- From the next commit on, created events of this listing are announced.
insert into private.scopes (source, scope, announced_from, baseline)
values ($source, $scope, $commit_at, $baseline)
on conflict do update set
    announced_from = coalesce(announced_from, excluded.announced_from),
    baseline = coalesce(baseline, excluded.baseline)
