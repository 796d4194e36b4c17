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

INSERT INTO public.access_audit VALUES (1, '2026-11-26 19:19:20.787287+00', 'ann', 'acme', 'key.mint', '7b5455114637', '{"name": "ci", "scopes": ["adapters:read", "generate"], "agents": ["code"], "tier": "default", "expires_at": "2126-11-02T19:19:20.786022+00:00"}');
INSERT INTO public.access_audit VALUES (2, '2026-11-26 19:19:20.817428+00', 'ann', 'default', 'key.mint', 'ad4448348708', '{"name": "ops", "scopes": ["admin"], "agents": null, "tier": "default", "expires_at": null}');
INSERT INTO public.access_audit VALUES (3, '2026-11-26 19:19:20.831801+00', 'ann', 'acme', 'key.mint', 'adfdcdeaf490', '{"name": "old", "scopes": ["adapters:read", "generate"], "agents": null, "tier": "default", "expires_at": null}');
INSERT INTO public.access_audit VALUES (4, '2026-11-26 19:19:20.846841+00', 'ann', 'acme', 'key.revoke', 'adfdcdeaf490', '{"name": "old"}');
INSERT INTO public.access_audit VALUES (5, '2026-11-26 19:19:20.943706+00', 'ann', 'acme', 'token.revoke', 'token-1', '{}');


--
-- Data for Name: access_keys; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.access_keys VALUES ('ad4448348708', '09d2c11d15a331237a8556e05c6544c19e649bf677bab4bda9a4cfff7c0c750a', 'ops', 'default', '["admin"]', NULL, 'default', '2026-11-26 19:19:20.817428+00', 'ann', NULL, NULL, NULL);
INSERT INTO public.access_keys VALUES ('7b5455114637', 'eeefa267f7974a51fc8e2d122b140d0e970fa8694b21a961b45715b9433404e5', 'ci', 'acme', '["adapters:read", "generate"]', '["code"]', 'default', '2026-11-26 19:19:20.787287+00', 'ann', '2126-11-02 19:19:20.786022+00', NULL, '2126-11-02 19:19:20.786022+00');
INSERT INTO public.access_keys VALUES ('adfdcdeaf490', 'ba597a4cf0eab3d482f598ced5c2fcd8fa74b5cfe327b7b9ac21473057f3d792', 'old', 'acme', '["adapters:read", "generate"]', NULL, 'default', '2026-11-26 19:19:20.831801+00', 'ann', NULL, '2026-11-26 19:19:20.846841+00', NULL);


--
-- Data for Name: access_revoked_tokens; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.access_revoked_tokens VALUES ('acme', 'token-1', '2026-11-26 19:19:20.943706+00', 'ann', NULL);


--
-- Data for Name: access_state; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.access_state VALUES (1, 5);


--
-- Data for Name: registry_aliases; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.registry_aliases VALUES ('code', 'prod', 'aaaaaaaaaaa1', NULL);
INSERT INTO public.registry_aliases VALUES ('code', 'beta', 'bbbbbbbbbbb2', 0.125);


--
-- Data for Name: registry_compositions; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.registry_compositions VALUES ('code:0.7+maths:0.3', '["code", "maths"]', true, '2026-11-26 19:19:20.774105+00', 'ann', '{"won": 9}');


--
-- Data for Name: registry_history; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.registry_history VALUES (1, 1, '2026-11-26 19:19:20.472975+00', 'server', 'found', 'add', 'code', 'aaaaaaaaaaa1', NULL, NULL, NULL);
INSERT INTO public.registry_history VALUES (2, 2, '2026-11-26 19:19:20.510875+00', 'ann', 'because', 'add', 'code', 'bbbbbbbbbbb2', NULL, NULL, 'forced');
INSERT INTO public.registry_history VALUES (3, 3, '2026-11-26 19:19:20.524133+00', 'ann', 'because', 'add', 'code', 'ccccccccccc3', NULL, NULL, NULL);
INSERT INTO public.registry_history VALUES (4, 4, '2026-11-26 19:19:20.547396+00', 'ann', 'because', 'add', 'code', 'ddddddddddd4', NULL, NULL, NULL);
INSERT INTO public.registry_history VALUES (5, 5, '2026-11-26 19:19:20.560269+00', 'ann', 'because', 'add', 'maths', 'aaaaaaaaaaa1', NULL, NULL, NULL);
INSERT INTO public.registry_history VALUES (6, 6, '2026-11-26 19:19:20.574442+00', 'ann', '', 'report', 'code', 'aaaaaaaaaaa1', NULL, NULL, 'effect');
INSERT INTO public.registry_history VALUES (7, 7, '2026-11-26 19:19:20.591509+00', 'ann', '', 'report', 'code', 'aaaaaaaaaaa1', NULL, NULL, 'parity');
INSERT INTO public.registry_history VALUES (8, 8, '2026-11-26 19:19:20.604978+00', 'ann', 'because', 'load', 'code', 'aaaaaaaaaaa1', NULL, NULL, NULL);
INSERT INTO public.registry_history VALUES (9, 8, '2026-11-26 19:19:20.604978+00', 'ann', 'because', 'pin', 'code', 'aaaaaaaaaaa1', NULL, NULL, NULL);
INSERT INTO public.registry_history VALUES (10, 9, '2026-11-26 19:19:20.630063+00', 'ann', 'because', 'load', 'code', 'bbbbbbbbbbb2', NULL, NULL, NULL);
INSERT INTO public.registry_history VALUES (11, 10, '2026-11-26 19:19:20.64311+00', 'ann', 'because', 'point', 'code', 'aaaaaaaaaaa1', 'prod', NULL, 'aaaaaaaaaaa1');
INSERT INTO public.registry_history VALUES (12, 11, '2026-11-26 19:19:20.658164+00', 'ann', 'because', 'point', 'code', 'bbbbbbbbbbb2', 'canary', NULL, 'bbbbbbbbbbb2:0.2');
INSERT INTO public.registry_history VALUES (13, 12, '2026-11-26 19:19:20.670143+00', 'ann', 'because', 'promote', 'code', 'bbbbbbbbbbb2', 'prod', 'aaaaaaaaaaa1', 'bbbbbbbbbbb2');
INSERT INTO public.registry_history VALUES (14, 12, '2026-11-26 19:19:20.670143+00', 'ann', 'because', 'promote', 'code', 'bbbbbbbbbbb2', 'canary', 'bbbbbbbbbbb2:0.2', NULL);
INSERT INTO public.registry_history VALUES (15, 13, '2026-11-26 19:19:20.681904+00', 'ann', 'because', 'rollback', 'code', 'aaaaaaaaaaa1', 'prod', 'bbbbbbbbbbb2', 'aaaaaaaaaaa1');
INSERT INTO public.registry_history VALUES (16, 14, '2026-11-26 19:19:20.709358+00', 'ann', 'because', 'point', 'code', 'bbbbbbbbbbb2', 'beta', NULL, 'bbbbbbbbbbb2:0.125');
INSERT INTO public.registry_history VALUES (17, 15, '2026-11-26 19:19:20.712909+00', 'ann', 'because', 'point', 'code', 'bbbbbbbbbbb2', 'old', NULL, 'bbbbbbbbbbb2');
INSERT INTO public.registry_history VALUES (18, 16, '2026-11-26 19:19:20.729719+00', 'ann', 'because', 'drop', 'code', 'bbbbbbbbbbb2', 'old', 'bbbbbbbbbbb2', NULL);
INSERT INTO public.registry_history VALUES (19, 17, '2026-11-26 19:19:20.731888+00', 'ann', 'because', 'retire', 'code', 'ccccccccccc3', NULL, NULL, NULL);
INSERT INTO public.registry_history VALUES (20, 18, '2026-11-26 19:19:20.747126+00', 'ann', 'because', 'retire', 'code', 'ddddddddddd4', NULL, NULL, NULL);
INSERT INTO public.registry_history VALUES (21, 19, '2026-11-26 19:19:20.761279+00', 'ann', 'because', 'delete', 'code', 'ddddddddddd4', NULL, NULL, NULL);
INSERT INTO public.registry_history VALUES (22, 20, '2026-11-26 19:19:20.774105+00', 'ann', '', 'evaluate', 'code:0.7+maths:0.3', NULL, NULL, NULL, 'approved');


--
-- Data for Name: registry_reports; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.registry_reports VALUES ('code', 'aaaaaaaaaaa1', 'effect', '2026-11-26 19:19:20.574442+00', 'ann', '{"difference": 0.25, "texts": ["\u00fc", null]}');
INSERT INTO public.registry_reports VALUES ('code', 'aaaaaaaaaaa1', 'parity', '2026-11-26 19:19:20.591509+00', 'ann', '{"max_error": 1e-06}');


--
-- Data for Name: registry_schema; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.registry_schema VALUES ('0002');


--
-- Data for Name: registry_state; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.registry_state VALUES (1, 20);


--
-- Data for Name: registry_versions; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.registry_versions VALUES ('maths', 'aaaaaaaaaaa1', 8, 3000000000, 'writes code, naïvely 🦙', '["write a loop", "schreib \u201ehallo\u201c\n"]', '[["2 + 2 =", "4"]]', 'org/base', 'store', 'hf://org/code', NULL, false, false, false, '2026-11-26 19:19:20.560269+00', 'ann');
INSERT INTO public.registry_versions VALUES ('code', 'aaaaaaaaaaa1', 8, 3000000000, 'writes code, naïvely 🦙', '["write a loop", "schreib \u201ehallo\u201c\n"]', '[["2 + 2 =", "4"]]', 'org/base', 'folder', 'code', NULL, true, true, false, '2026-11-26 19:19:20.472975+00', 'server');
INSERT INTO public.registry_versions VALUES ('code', 'bbbbbbbbbbb2', 8, 3000000000, 'writes code, naïvely 🦙', '["write a loop", "schreib \u201ehallo\u201c\n"]', '[["2 + 2 =", "4"]]', 'org/base', 'store', 'hf://org/code', 'no effect', true, false, false, '2026-11-26 19:19:20.510875+00', 'ann');
INSERT INTO public.registry_versions VALUES ('code', 'ccccccccccc3', 8, 3000000000, 'writes code, naïvely 🦙', '["write a loop", "schreib \u201ehallo\u201c\n"]', '[["2 + 2 =", "4"]]', 'org/base', 'store', 'hf://org/code', NULL, false, false, true, '2026-11-26 19:19:20.524133+00', 'ann');


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
-- Name: ix_registry_history_name_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX ix_registry_history_name_id ON public.registry_history USING btree (name, id);


--
-- Name: access_audit access_audit_only_added_to; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER access_audit_only_added_to BEFORE DELETE OR UPDATE OR TRUNCATE ON public.access_audit FOR EACH STATEMENT EXECUTE FUNCTION public.access_audit_only_added_to();


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


