-- Of these listings a full walk without a certificate has brought some rows, and missed others.
update private.scopes
set unsure = true
where source = $source and scope in (select unnest($scopes))
