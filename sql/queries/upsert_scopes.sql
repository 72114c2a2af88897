-- These listings were walked in full, with a certificate.
insert into private.scopes (source, scope, full_at, unsure)
select $source, unnest($scopes), $commit_at, false
on conflict do update set full_at = excluded.full_at, unsure = false
