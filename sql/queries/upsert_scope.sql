-- A listing was walked in full, with a certificate.
insert into private.scopes (source, scope, full_at)
values ($source, $scope, $commit_at)
on conflict do update set full_at = excluded.full_at
