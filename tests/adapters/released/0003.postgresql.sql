--
-- PostgreSQL database dump
--


-- Dumped from database version 15.18 (Debian 15.18-0+deb12u1)
-- Dumped by pg_dump version 15.18 (Debian 15.18-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: access_audit_only_added_to(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.access_audit_only_added_to() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'the audit log is only added to'; END $$;


SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: access_audit; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.access_audit (
    id bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    who text NOT NULL,
    tenant text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    detail json NOT NULL
);


--
-- Name: access_keys; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.access_keys (
    id text NOT NULL,
    digest text NOT NULL,
    name text NOT NULL,
    tenant text NOT NULL,
    scopes json NOT NULL,
    agents json,
    tier text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    created_by text NOT NULL,
    expires_at timestamp with time zone,
    revoked_at timestamp with time zone,
    last_used_at timestamp with time zone
);


--
-- Name: access_revoked_tokens; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.access_revoked_tokens (
    tenant text NOT NULL,
    jti text NOT NULL,
    revoked_at timestamp with time zone NOT NULL,
    revoked_by text NOT NULL,
    expires_at timestamp with time zone
);


--
-- Name: access_state; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.access_state (
    id integer NOT NULL,
    revision bigint NOT NULL,
    CONSTRAINT ck_access_state_one_row CHECK ((id = 1))
);


--
-- Name: batch_files; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.batch_files (
    id text NOT NULL,
    tenant text NOT NULL,
    purpose text NOT NULL,
    filename text NOT NULL,
    size_bytes bigint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL
);


--
-- Name: batch_jobs; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.batch_jobs (
    id text NOT NULL,
    tenant text NOT NULL,
    caller json NOT NULL,
    endpoint text NOT NULL,
    input_file_id text NOT NULL,
    output_file_id text,
    error_file_id text,
    output_seconds bigint,
    labels json,
    status text NOT NULL,
    errors json,
    n_requests integer NOT NULL,
    n_completed integer NOT NULL,
    n_failed integer NOT NULL,
    n_input_tokens bigint NOT NULL,
    n_output_tokens bigint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    in_progress_at timestamp with time zone,
    finalizing_at timestamp with time zone,
    cancelling_at timestamp with time zone,
    ended_at timestamp with time zone,
    holder text,
    held_until timestamp with time zone
);


--
-- Name: batch_results; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.batch_results (
    batch_id text NOT NULL,
    line integer NOT NULL,
    is_error boolean NOT NULL,
    content text NOT NULL
);


--
-- Name: registry_aliases; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.registry_aliases (
    name text NOT NULL,
    alias text NOT NULL,
    version text NOT NULL,
    share double precision,
    CONSTRAINT ck_registry_aliases_share CHECK (((share > (0)::double precision) AND (share < (1)::double precision)))
);


--
-- Name: registry_compositions; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.registry_compositions (
    spec text NOT NULL,
    agents json NOT NULL,
    approved boolean NOT NULL,
    at timestamp with time zone NOT NULL,
    by text NOT NULL,
    report json NOT NULL
);


--
-- Name: registry_history; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.registry_history (
    id bigint NOT NULL,
    revision bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    who text NOT NULL,
    why text NOT NULL,
    action text NOT NULL,
    name text NOT NULL,
    version text,
    alias text,
    before text,
    after text
);


--
-- Name: registry_reports; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.registry_reports (
    name text NOT NULL,
    version text NOT NULL,
    kind text NOT NULL,
    at timestamp with time zone NOT NULL,
    by text NOT NULL,
    content json NOT NULL
);


--
-- Name: registry_schema; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.registry_schema (
    version_num character varying(32) NOT NULL
);


--
-- Name: registry_state; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.registry_state (
    id integer NOT NULL,
    revision bigint NOT NULL,
    CONSTRAINT ck_registry_state_one_row CHECK ((id = 1))
);


--
-- Name: registry_versions; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.registry_versions (
    name text NOT NULL,
    version text NOT NULL,
    rank integer NOT NULL,
    size_bytes bigint NOT NULL,
    description text NOT NULL,
    examples json NOT NULL,
    probes json NOT NULL,
    base_model text NOT NULL,
    origin text NOT NULL,
    source text NOT NULL,
    refusal text,
    loaded boolean NOT NULL,
    pinned boolean NOT NULL,
    retired boolean NOT NULL,
    added_at timestamp with time zone NOT NULL,
    added_by text NOT NULL,
    CONSTRAINT ck_registry_versions_retired_is_not_loaded CHECK ((NOT (retired AND (loaded OR pinned))))
);


--
-- Data for Name: access_audit; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.access_audit VALUES (1, '2026-11-26 21:46:52.533747+00', 'ann', 'acme', 'key.mint', '54ecb537d3e3', '{"name": "ci", "scopes": ["adapters:read", "generate"], "agents": ["code"], "tier": "default", "expires_at": "2126-11-02T21:46:52.533078+00:00"}');
INSERT INTO public.access_audit VALUES (2, '2026-11-26 21:46:52.537243+00', 'ann', 'default', 'key.mint', '95a3fcf5fd79', '{"name": "ops", "scopes": ["admin"], "agents": null, "tier": "default", "expires_at": null}');
INSERT INTO public.access_audit VALUES (3, '2026-11-26 21:46:52.540106+00', 'ann', 'acme', 'key.mint', '46e04178ab80', '{"name": "old", "scopes": ["adapters:read", "generate"], "agents": null, "tier": "default", "expires_at": null}');
INSERT INTO public.access_audit VALUES (4, '2026-11-26 21:46:52.541799+00', 'ann', 'acme', 'key.revoke', '46e04178ab80', '{"name": "old"}');
INSERT INTO public.access_audit VALUES (5, '2026-11-26 21:46:52.543847+00', 'ann', 'acme', 'token.revoke', 'token-1', '{}');


--
-- Data for Name: access_keys; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.access_keys VALUES ('95a3fcf5fd79', '35f4c176b9ab87f150938669438c1525e24ad5f2f16a677b1fd71d792d919f2e', 'ops', 'default', '["admin"]', NULL, 'default', '2026-11-26 21:46:52.537243+00', 'ann', NULL, NULL, NULL);
INSERT INTO public.access_keys VALUES ('54ecb537d3e3', '5a45907affb6bf9bbb83e37fb3919edc1642f594043edcb58fe4edcf4c2a1462', 'ci', 'acme', '["adapters:read", "generate"]', '["code"]', 'default', '2026-11-26 21:46:52.533747+00', 'ann', '2126-11-02 21:46:52.533078+00', NULL, '2126-11-02 21:46:52.533078+00');
INSERT INTO public.access_keys VALUES ('46e04178ab80', '2b04cc1773a8545305f2101ab5aed47b99c1eec2e9a8568237b7265c722c53da', 'old', 'acme', '["adapters:read", "generate"]', NULL, 'default', '2026-11-26 21:46:52.540106+00', 'ann', NULL, '2026-11-26 21:46:52.541799+00', NULL);


--
-- Data for Name: access_revoked_tokens; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.access_revoked_tokens VALUES ('acme', 'token-1', '2026-11-26 21:46:52.543847+00', 'ann', NULL);


--
-- Data for Name: access_state; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.access_state VALUES (1, 5);


--
-- Data for Name: batch_files; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.batch_files VALUES ('file-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 'acme', 'batch', 'in.jsonl', 20, '2026-11-26 21:46:51.790343+00', '2126-11-02 21:46:51.790343+00');


--
-- Data for Name: batch_jobs; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.batch_jobs VALUES ('batch_269c26a489ebad066d29d4016a6fc9a0', 'acme', '{"subject": "ci"}', '/v1/completions', 'file-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', NULL, NULL, NULL, '{"job": "\u00fc"}', 'cancelling', NULL, 0, 0, 0, 0, 0, '2026-11-26 21:46:51.790343+00', '2126-11-02 21:46:51.790343+00', NULL, NULL, '2026-11-26 21:46:51.790343+00', NULL, NULL, NULL);
INSERT INTO public.batch_jobs VALUES ('batch_810921361c0359a743fd8757a06b4c3a', 'acme', '{"subject": "ci"}', '/v1/completions', 'file-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', NULL, NULL, NULL, '{"job": "\u00fc"}', 'in_progress', NULL, 2, 1, 0, 0, 0, '2026-11-26 21:46:51.790343+00', '2126-11-02 21:46:51.790343+00', '2026-11-26 21:46:51.790343+00', NULL, NULL, NULL, 'gateway', '2126-11-02 21:46:51.790343+00');


--
-- Data for Name: batch_results; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.batch_results VALUES ('batch_810921361c0359a743fd8757a06b4c3a', 0, false, '{"custom_id": "a"}');


--
-- Data for Name: registry_aliases; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.registry_aliases VALUES ('code', 'prod', 'aaaaaaaaaaa1', NULL);
INSERT INTO public.registry_aliases VALUES ('code', 'beta', 'bbbbbbbbbbb2', 0.125);


--
-- Data for Name: registry_compositions; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.registry_compositions VALUES ('code:0.7+maths:0.3', '["code", "maths"]', true, '2026-11-26 21:46:52.530893+00', 'ann', '{"won": 9}');


--
-- Data for Name: registry_history; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.registry_history VALUES (1, 1, '2026-11-26 21:46:52.475298+00', 'server', 'found', 'add', 'code', 'aaaaaaaaaaa1', NULL, NULL, NULL);
INSERT INTO public.registry_history VALUES (2, 2, '2026-11-26 21:46:52.481373+00', 'ann', 'because', 'add', 'code', 'bbbbbbbbbbb2', NULL, NULL, 'forced');
INSERT INTO public.registry_history VALUES (3, 3, '2026-11-26 21:46:52.484376+00', 'ann', 'because', 'add', 'code', 'ccccccccccc3', NULL, NULL, NULL);
INSERT INTO public.registry_history VALUES (4, 4, '2026-11-26 21:46:52.486973+00', 'ann', 'because', 'add', 'code', 'ddddddddddd4', NULL, NULL, NULL);
INSERT INTO public.registry_history VALUES (5, 5, '2026-11-26 21:46:52.489918+00', 'ann', 'because', 'add', 'maths', 'aaaaaaaaaaa1', NULL, NULL, NULL);
INSERT INTO public.registry_history VALUES (6, 6, '2026-11-26 21:46:52.492319+00', 'ann', '', 'report', 'code', 'aaaaaaaaaaa1', NULL, NULL, 'effect');
INSERT INTO public.registry_history VALUES (7, 7, '2026-11-26 21:46:52.495881+00', 'ann', '', 'report', 'code', 'aaaaaaaaaaa1', NULL, NULL, 'parity');
INSERT INTO public.registry_history VALUES (8, 8, '2026-11-26 21:46:52.498981+00', 'ann', 'because', 'load', 'code', 'aaaaaaaaaaa1', NULL, NULL, NULL);
INSERT INTO public.registry_history VALUES (9, 8, '2026-11-26 21:46:52.498981+00', 'ann', 'because', 'pin', 'code', 'aaaaaaaaaaa1', NULL, NULL, NULL);
INSERT INTO public.registry_history VALUES (10, 9, '2026-11-26 21:46:52.502494+00', 'ann', 'because', 'load', 'code', 'bbbbbbbbbbb2', NULL, NULL, NULL);
INSERT INTO public.registry_history VALUES (11, 10, '2026-11-26 21:46:52.504801+00', 'ann', 'because', 'point', 'code', 'aaaaaaaaaaa1', 'prod', NULL, 'aaaaaaaaaaa1');
INSERT INTO public.registry_history VALUES (12, 11, '2026-11-26 21:46:52.507585+00', 'ann', 'because', 'point', 'code', 'bbbbbbbbbbb2', 'canary', NULL, 'bbbbbbbbbbb2:0.2');
INSERT INTO public.registry_history VALUES (13, 12, '2026-11-26 21:46:52.509997+00', 'ann', 'because', 'promote', 'code', 'bbbbbbbbbbb2', 'prod', 'aaaaaaaaaaa1', 'bbbbbbbbbbb2');
INSERT INTO public.registry_history VALUES (14, 12, '2026-11-26 21:46:52.509997+00', 'ann', 'because', 'promote', 'code', 'bbbbbbbbbbb2', 'canary', 'bbbbbbbbbbb2:0.2', NULL);
INSERT INTO public.registry_history VALUES (15, 13, '2026-11-26 21:46:52.512705+00', 'ann', 'because', 'rollback', 'code', 'aaaaaaaaaaa1', 'prod', 'bbbbbbbbbbb2', 'aaaaaaaaaaa1');
INSERT INTO public.registry_history VALUES (16, 14, '2026-11-26 21:46:52.517358+00', 'ann', 'because', 'point', 'code', 'bbbbbbbbbbb2', 'beta', NULL, 'bbbbbbbbbbb2:0.125');
INSERT INTO public.registry_history VALUES (17, 15, '2026-11-26 21:46:52.519444+00', 'ann', 'because', 'point', 'code', 'bbbbbbbbbbb2', 'old', NULL, 'bbbbbbbbbbb2');
INSERT INTO public.registry_history VALUES (18, 16, '2026-11-26 21:46:52.52163+00', 'ann', 'because', 'drop', 'code', 'bbbbbbbbbbb2', 'old', 'bbbbbbbbbbb2', NULL);
INSERT INTO public.registry_history VALUES (19, 17, '2026-11-26 21:46:52.523117+00', 'ann', 'because', 'retire', 'code', 'ccccccccccc3', NULL, NULL, NULL);
INSERT INTO public.registry_history VALUES (20, 18, '2026-11-26 21:46:52.525893+00', 'ann', 'because', 'retire', 'code', 'ddddddddddd4', NULL, NULL, NULL);
INSERT INTO public.registry_history VALUES (21, 19, '2026-11-26 21:46:52.528592+00', 'ann', 'because', 'delete', 'code', 'ddddddddddd4', NULL, NULL, NULL);
INSERT INTO public.registry_history VALUES (22, 20, '2026-11-26 21:46:52.530893+00', 'ann', '', 'evaluate', 'code:0.7+maths:0.3', NULL, NULL, NULL, 'approved');


--
-- Data for Name: registry_reports; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.registry_reports VALUES ('code', 'aaaaaaaaaaa1', 'effect', '2026-11-26 21:46:52.492319+00', 'ann', '{"difference": 0.25, "texts": ["\u00fc", null]}');
INSERT INTO public.registry_reports VALUES ('code', 'aaaaaaaaaaa1', 'parity', '2026-11-26 21:46:52.495881+00', 'ann', '{"max_error": 1e-06}');


--
-- Data for Name: registry_schema; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.registry_schema VALUES ('0003');


--
-- Data for Name: registry_state; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.registry_state VALUES (1, 20);


--
-- Data for Name: registry_versions; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.registry_versions VALUES ('maths', 'aaaaaaaaaaa1', 8, 3000000000, 'writes code, naïvely 🦙', '["write a loop", "schreib \u201ehallo\u201c\n"]', '[["2 + 2 =", "4"]]', 'org/base', 'store', 'hf://org/code', NULL, false, false, false, '2026-11-26 21:46:52.489918+00', 'ann');
INSERT INTO public.registry_versions VALUES ('code', 'aaaaaaaaaaa1', 8, 3000000000, 'writes code, naïvely 🦙', '["write a loop", "schreib \u201ehallo\u201c\n"]', '[["2 + 2 =", "4"]]', 'org/base', 'folder', 'code', NULL, true, true, false, '2026-11-26 21:46:52.475298+00', 'server');
INSERT INTO public.registry_versions VALUES ('code', 'bbbbbbbbbbb2', 8, 3000000000, 'writes code, naïvely 🦙', '["write a loop", "schreib \u201ehallo\u201c\n"]', '[["2 + 2 =", "4"]]', 'org/base', 'store', 'hf://org/code', 'no effect', true, false, false, '2026-11-26 21:46:52.481373+00', 'ann');
INSERT INTO public.registry_versions VALUES ('code', 'ccccccccccc3', 8, 3000000000, 'writes code, naïvely 🦙', '["write a loop", "schreib \u201ehallo\u201c\n"]', '[["2 + 2 =", "4"]]', 'org/base', 'store', 'hf://org/code', NULL, false, false, true, '2026-11-26 21:46:52.484376+00', 'ann');


--
-- Name: access_audit pk_access_audit; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.access_audit
    ADD CONSTRAINT pk_access_audit PRIMARY KEY (id);


--
-- Name: access_keys pk_access_keys; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.access_keys
    ADD CONSTRAINT pk_access_keys PRIMARY KEY (id);


--
-- Name: access_revoked_tokens pk_access_revoked_tokens; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.access_revoked_tokens
    ADD CONSTRAINT pk_access_revoked_tokens PRIMARY KEY (tenant, jti);


--
-- Name: access_state pk_access_state; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.access_state
    ADD CONSTRAINT pk_access_state PRIMARY KEY (id);


--
-- Name: batch_files pk_batch_files; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.batch_files
    ADD CONSTRAINT pk_batch_files PRIMARY KEY (id);


--
-- Name: batch_jobs pk_batch_jobs; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.batch_jobs
    ADD CONSTRAINT pk_batch_jobs PRIMARY KEY (id);


--
-- Name: batch_results pk_batch_results; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.batch_results
    ADD CONSTRAINT pk_batch_results PRIMARY KEY (batch_id, line);


--
-- Name: registry_aliases pk_registry_aliases; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.registry_aliases
    ADD CONSTRAINT pk_registry_aliases PRIMARY KEY (name, alias);


--
-- Name: registry_compositions pk_registry_compositions; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.registry_compositions
    ADD CONSTRAINT pk_registry_compositions PRIMARY KEY (spec);


--
-- Name: registry_history pk_registry_history; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.registry_history
    ADD CONSTRAINT pk_registry_history PRIMARY KEY (id);


--
-- Name: registry_reports pk_registry_reports; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.registry_reports
    ADD CONSTRAINT pk_registry_reports PRIMARY KEY (name, version, kind);


--
-- Name: registry_state pk_registry_state; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.registry_state
    ADD CONSTRAINT pk_registry_state PRIMARY KEY (id);


--
-- Name: registry_versions pk_registry_versions; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.registry_versions
    ADD CONSTRAINT pk_registry_versions PRIMARY KEY (name, version);


--
-- Name: registry_schema registry_schema_pkc; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.registry_schema
    ADD CONSTRAINT registry_schema_pkc PRIMARY KEY (version_num);


--
-- Name: ix_batch_files_tenant_created_at_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX ix_batch_files_tenant_created_at_id ON public.batch_files USING btree (tenant, created_at, id);


--
-- Name: ix_batch_jobs_ended_at; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX ix_batch_jobs_ended_at ON public.batch_jobs USING btree (ended_at);


--
-- Name: ix_batch_jobs_tenant_created_at_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX ix_batch_jobs_tenant_created_at_id ON public.batch_jobs USING btree (tenant, created_at, id);


--
-- Name: ix_registry_history_name_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX ix_registry_history_name_id ON public.registry_history USING btree (name, id);


--
-- Name: access_audit access_audit_only_added_to; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER access_audit_only_added_to BEFORE DELETE OR UPDATE OR TRUNCATE ON public.access_audit FOR EACH STATEMENT EXECUTE FUNCTION public.access_audit_only_added_to();


--
-- Name: batch_results fk_batch_results_batch_jobs; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.batch_results
    ADD CONSTRAINT fk_batch_results_batch_jobs FOREIGN KEY (batch_id) REFERENCES public.batch_jobs(id) ON DELETE CASCADE;


--
-- Name: registry_aliases fk_registry_aliases_registry_versions; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.registry_aliases
    ADD CONSTRAINT fk_registry_aliases_registry_versions FOREIGN KEY (name, version) REFERENCES public.registry_versions(name, version);


--
-- Name: registry_reports fk_registry_reports_registry_versions; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.registry_reports
    ADD CONSTRAINT fk_registry_reports_registry_versions FOREIGN KEY (name, version) REFERENCES public.registry_versions(name, version) ON DELETE CASCADE;


--
-- PostgreSQL database dump complete
--


