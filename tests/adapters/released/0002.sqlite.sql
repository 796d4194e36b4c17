BEGIN TRANSACTION;
CREATE TABLE access_audit (
	id BIGINT NOT NULL, 
	at DATETIME NOT NULL, 
	who TEXT NOT NULL, 
	tenant TEXT NOT NULL, 
	action TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	detail JSON NOT NULL, 
	CONSTRAINT pk_access_audit PRIMARY KEY (id)
);
INSERT INTO "access_audit" VALUES(1,'2026-11-26 19:19:18.278263','ann','acme','key.mint','c6778f0a578e','{"name": "ci", "scopes": ["adapters:read", "generate"], "agents": ["code"], "tier": "default", "expires_at": "2126-11-02T19:19:18.277346+00:00"}');
INSERT INTO "access_audit" VALUES(2,'2026-11-26 19:19:18.297864','ann','default','key.mint','68259b5d48c0','{"name": "ops", "scopes": ["admin"], "agents": null, "tier": "default", "expires_at": null}');
INSERT INTO "access_audit" VALUES(3,'2026-11-26 19:19:18.317927','ann','acme','key.mint','5217faee2866','{"name": "old", "scopes": ["adapters:read", "generate"], "agents": null, "tier": "default", "expires_at": null}');
INSERT INTO "access_audit" VALUES(4,'2026-11-26 19:19:18.329766','ann','acme','key.revoke','5217faee2866','{"name": "old"}');
INSERT INTO "access_audit" VALUES(5,'2026-11-26 19:19:18.340156','ann','acme','token.revoke','token-1','{}');
CREATE TABLE access_keys (
	id TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	name TEXT NOT NULL, 
	tenant TEXT NOT NULL, 
	scopes JSON NOT NULL, 
	agents JSON, 
	tier TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	created_by TEXT NOT NULL, 
	expires_at DATETIME, 
	revoked_at DATETIME, 
	last_used_at DATETIME, 
	CONSTRAINT pk_access_keys PRIMARY KEY (id)
);
INSERT INTO "access_keys" VALUES('c6778f0a578e','b5e18c30a133799a434fef4efd8e223bae109df3bbf32737e101a5c514c53afa','ci','acme','["adapters:read", "generate"]','["code"]','default','2026-11-26 19:19:18.278263','ann','2126-11-02 19:19:18.277346',NULL,'2126-11-02 19:19:18.277346');
INSERT INTO "access_keys" VALUES('68259b5d48c0','be0d09e927afc9f2ba55fcc483bb0d3c25902f95f3cc1acacae1c6f6dff8d4cf','ops','default','["admin"]',NULL,'default','2026-11-26 19:19:18.297864','ann',NULL,NULL,NULL);
INSERT INTO "access_keys" VALUES('5217faee2866','b639853982d612588961196d518968a84e9e7563c7b92d34f9b952db9b9d8c67','old','acme','["adapters:read", "generate"]',NULL,'default','2026-11-26 19:19:18.317927','ann',NULL,'2026-11-26 19:19:18.329766',NULL);
CREATE TABLE access_revoked_tokens (
	tenant TEXT NOT NULL, 
	jti TEXT NOT NULL, 
	revoked_at DATETIME NOT NULL, 
	revoked_by TEXT NOT NULL, 
	expires_at DATETIME, 
	CONSTRAINT pk_access_revoked_tokens PRIMARY KEY (tenant, jti)
);
INSERT INTO "access_revoked_tokens" VALUES('acme','token-1','2026-11-26 19:19:18.340156','ann',NULL);
CREATE TABLE access_state (
	id INTEGER NOT NULL, 
	revision BIGINT NOT NULL, 
	CONSTRAINT pk_access_state PRIMARY KEY (id), 
	CONSTRAINT ck_access_state_one_row CHECK (id = 1)
);
INSERT INTO "access_state" VALUES(1,5);
CREATE TABLE registry_aliases (
	name TEXT NOT NULL, 
	alias TEXT NOT NULL, 
	version TEXT NOT NULL, 
	share DOUBLE, 
	CONSTRAINT pk_registry_aliases PRIMARY KEY (name, alias), 
	CONSTRAINT fk_registry_aliases_registry_versions FOREIGN KEY(name, version) REFERENCES registry_versions (name, version), 
	CONSTRAINT ck_registry_aliases_share CHECK (share > 0 AND share < 1)
);
INSERT INTO "registry_aliases" VALUES('code','prod','aaaaaaaaaaa1',NULL);
INSERT INTO "registry_aliases" VALUES('code','beta','bbbbbbbbbbb2',0.125);
CREATE TABLE registry_compositions (
	spec TEXT NOT NULL, 
	agents JSON NOT NULL, 
	approved BOOLEAN NOT NULL, 
	at DATETIME NOT NULL, 
	"by" TEXT NOT NULL, 
	report JSON NOT NULL, 
	CONSTRAINT pk_registry_compositions PRIMARY KEY (spec)
);
INSERT INTO "registry_compositions" VALUES('code:0.7+maths:0.3','["code", "maths"]',1,'2026-11-26 19:19:18.266025','ann','{"won": 9}');
CREATE TABLE registry_history (
	id BIGINT NOT NULL, 
	revision BIGINT NOT NULL, 
	at DATETIME NOT NULL, 
	who TEXT NOT NULL, 
	why TEXT NOT NULL, 
	action TEXT NOT NULL, 
	name TEXT NOT NULL, 
	version TEXT, 
	alias TEXT, 
	"before" TEXT, 
	"after" TEXT, 
	CONSTRAINT pk_registry_history PRIMARY KEY (id)
);
INSERT INTO "registry_history" VALUES(1,1,'2026-11-26 19:19:18.000133','server','found','add','code','aaaaaaaaaaa1',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(2,2,'2026-11-26 19:19:18.050034','ann','because','add','code','bbbbbbbbbbb2',NULL,NULL,'forced');
INSERT INTO "registry_history" VALUES(3,3,'2026-11-26 19:19:18.066064','ann','because','add','code','ccccccccccc3',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(4,4,'2026-11-26 19:19:18.077748','ann','because','add','code','ddddddddddd4',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(5,5,'2026-11-26 19:19:18.081707','ann','because','add','maths','aaaaaaaaaaa1',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(6,6,'2026-11-26 19:19:18.094050','ann','','report','code','aaaaaaaaaaa1',NULL,NULL,'effect');
INSERT INTO "registry_history" VALUES(7,7,'2026-11-26 19:19:18.109882','ann','','report','code','aaaaaaaaaaa1',NULL,NULL,'parity');
INSERT INTO "registry_history" VALUES(8,8,'2026-11-26 19:19:18.129119','ann','because','load','code','aaaaaaaaaaa1',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(9,8,'2026-11-26 19:19:18.129119','ann','because','pin','code','aaaaaaaaaaa1',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(10,9,'2026-11-26 19:19:18.141890','ann','because','load','code','bbbbbbbbbbb2',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(11,10,'2026-11-26 19:19:18.157777','ann','because','point','code','aaaaaaaaaaa1','prod',NULL,'aaaaaaaaaaa1');
INSERT INTO "registry_history" VALUES(12,11,'2026-11-26 19:19:18.168443','ann','because','point','code','bbbbbbbbbbb2','canary',NULL,'bbbbbbbbbbb2:0.2');
INSERT INTO "registry_history" VALUES(13,12,'2026-11-26 19:19:18.177616','ann','because','promote','code','bbbbbbbbbbb2','prod','aaaaaaaaaaa1','bbbbbbbbbbb2');
INSERT INTO "registry_history" VALUES(14,12,'2026-11-26 19:19:18.177616','ann','because','promote','code','bbbbbbbbbbb2','canary','bbbbbbbbbbb2:0.2',NULL);
INSERT INTO "registry_history" VALUES(15,13,'2026-11-26 19:19:18.193774','ann','because','rollback','code','aaaaaaaaaaa1','prod','bbbbbbbbbbb2','aaaaaaaaaaa1');
INSERT INTO "registry_history" VALUES(16,14,'2026-11-26 19:19:18.209731','ann','because','point','code','bbbbbbbbbbb2','beta',NULL,'bbbbbbbbbbb2:0.125');
INSERT INTO "registry_history" VALUES(17,15,'2026-11-26 19:19:18.217535','ann','because','point','code','bbbbbbbbbbb2','old',NULL,'bbbbbbbbbbb2');
INSERT INTO "registry_history" VALUES(18,16,'2026-11-26 19:19:18.229635','ann','because','drop','code','bbbbbbbbbbb2','old','bbbbbbbbbbb2',NULL);
INSERT INTO "registry_history" VALUES(19,17,'2026-11-26 19:19:18.237526','ann','because','retire','code','ccccccccccc3',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(20,18,'2026-11-26 19:19:18.249642','ann','because','retire','code','ddddddddddd4',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(21,19,'2026-11-26 19:19:18.257587','ann','because','delete','code','ddddddddddd4',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(22,20,'2026-11-26 19:19:18.266025','ann','','evaluate','code:0.7+maths:0.3',NULL,NULL,NULL,'approved');
CREATE TABLE registry_reports (
	name TEXT NOT NULL, 
	version TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	at DATETIME NOT NULL, 
	"by" TEXT NOT NULL, 
	content JSON NOT NULL, 
	CONSTRAINT pk_registry_reports PRIMARY KEY (name, version, kind), 
	CONSTRAINT fk_registry_reports_registry_versions FOREIGN KEY(name, version) REFERENCES registry_versions (name, version) ON DELETE CASCADE
);
INSERT INTO "registry_reports" VALUES('code','aaaaaaaaaaa1','effect','2026-11-26 19:19:18.094050','ann','{"difference": 0.25, "texts": ["\u00fc", null]}');
INSERT INTO "registry_reports" VALUES('code','aaaaaaaaaaa1','parity','2026-11-26 19:19:18.109882','ann','{"max_error": 1e-06}');
CREATE TABLE registry_schema (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT registry_schema_pkc PRIMARY KEY (version_num)
);
INSERT INTO "registry_schema" VALUES('0002');
CREATE TABLE registry_state (
	id INTEGER NOT NULL, 
	revision BIGINT NOT NULL, 
	CONSTRAINT pk_registry_state PRIMARY KEY (id), 
	CONSTRAINT ck_registry_state_one_row CHECK (id = 1)
);
INSERT INTO "registry_state" VALUES(1,20);
CREATE TABLE registry_versions (
	name TEXT NOT NULL, 
	version TEXT NOT NULL, 
	rank INTEGER NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	description TEXT NOT NULL, 
	examples JSON NOT NULL, 
	probes JSON NOT NULL, 
	base_model TEXT NOT NULL, 
	origin TEXT NOT NULL, 
	source TEXT NOT NULL, 
	refusal TEXT, 
	loaded BOOLEAN NOT NULL, 
	pinned BOOLEAN NOT NULL, 
	retired BOOLEAN NOT NULL, 
	added_at DATETIME NOT NULL, 
	added_by TEXT NOT NULL, 
	CONSTRAINT pk_registry_versions PRIMARY KEY (name, version), 
	CONSTRAINT ck_registry_versions_retired_is_not_loaded CHECK (NOT (retired AND (loaded OR pinned)))
);
INSERT INTO "registry_versions" VALUES('code','aaaaaaaaaaa1',8,3000000000,'writes code, naïvely 🦙','["write a loop", "schreib \u201ehallo\u201c\n"]','[["2 + 2 =", "4"]]','org/base','folder','code',NULL,1,1,0,'2026-11-26 19:19:18.000133','server');
INSERT INTO "registry_versions" VALUES('code','bbbbbbbbbbb2',8,3000000000,'writes code, naïvely 🦙','["write a loop", "schreib \u201ehallo\u201c\n"]','[["2 + 2 =", "4"]]','org/base','store','hf://org/code','no effect',1,0,0,'2026-11-26 19:19:18.050034','ann');
INSERT INTO "registry_versions" VALUES('code','ccccccccccc3',8,3000000000,'writes code, naïvely 🦙','["write a loop", "schreib \u201ehallo\u201c\n"]','[["2 + 2 =", "4"]]','org/base','store','hf://org/code',NULL,0,0,1,'2026-11-26 19:19:18.066064','ann');
INSERT INTO "registry_versions" VALUES('maths','aaaaaaaaaaa1',8,3000000000,'writes code, naïvely 🦙','["write a loop", "schreib \u201ehallo\u201c\n"]','[["2 + 2 =", "4"]]','org/base','store','hf://org/code',NULL,0,0,0,'2026-11-26 19:19:18.081707','ann');
CREATE INDEX ix_registry_history_name_id ON registry_history (name, id);
CREATE TRIGGER access_audit_no_update BEFORE UPDATE ON access_audit BEGIN SELECT RAISE(ABORT, 'the audit log is only added to'); END;
CREATE TRIGGER access_audit_no_delete BEFORE DELETE ON access_audit BEGIN SELECT RAISE(ABORT, 'the audit log is only added to'); END;
COMMIT;
