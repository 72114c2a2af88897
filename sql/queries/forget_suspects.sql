-- What was absent before a restore may have been seen since: two new walks decide.
update installs set missing_since = null where missing_since is not null
