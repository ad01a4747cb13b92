#!/bin/sh
# Runs once, when PostgreSQL's volume is empty: a role and a database of its own for each of the two programs.
set -eu

create() {
    psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
        --set name="$1" --set variable="$2" <<'SQL'
\getenv password :variable
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
}

create label_studio LABEL_STUDIO_DB_PASSWORD
create ram_backend BACKEND_DB_PASSWORD
