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
INSERT INTO "access_audit" VALUES(1,'2026-11-26 21:46:51.845727','ann','acme','key.mint','70148e15746c','{"name": "ci", "scopes": ["adapters:read", "generate"], "agents": ["code"], "tier": "default", "expires_at": "2126-11-02T21:46:51.845415+00:00"}');
INSERT INTO "access_audit" VALUES(2,'2026-11-26 21:46:51.847900','ann','default','key.mint','5dcc9f7dc71a','{"name": "ops", "scopes": ["admin"], "agents": null, "tier": "default", "expires_at": null}');
INSERT INTO "access_audit" VALUES(3,'2026-11-26 21:46:51.849327','ann','acme','key.mint','69683efb9c5b','{"name": "old", "scopes": ["adapters:read", "generate"], "agents": null, "tier": "default", "expires_at": null}');
INSERT INTO "access_audit" VALUES(4,'2026-11-26 21:46:51.850369','ann','acme','key.revoke','69683efb9c5b','{"name": "old"}');
INSERT INTO "access_audit" VALUES(5,'2026-11-26 21:46:51.851524','ann','acme','token.revoke','token-1','{}');
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
INSERT INTO "access_keys" VALUES('70148e15746c','b084c904fd70cfa5c6b780f4db705da5ae198b0ed1732191c3c6167b8c80a9fe','ci','acme','["adapters:read", "generate"]','["code"]','default','2026-11-26 21:46:51.845727','ann','2126-11-02 21:46:51.845415',NULL,'2126-11-02 21:46:51.845415');
INSERT INTO "access_keys" VALUES('5dcc9f7dc71a','7defcfa5bd84dcce2d985bfc315e7a39c8a521ce3185d61064af91c4193ca79d','ops','default','["admin"]',NULL,'default','2026-11-26 21:46:51.847900','ann',NULL,NULL,NULL);
INSERT INTO "access_keys" VALUES('69683efb9c5b','17b789bedf32e0b03fc0459ee72eb43dfebeb70cfb6ed9792332802d021fd49e','old','acme','["adapters:read", "generate"]',NULL,'default','2026-11-26 21:46:51.849327','ann',NULL,'2026-11-26 21:46:51.850369',NULL);
CREATE TABLE access_revoked_tokens (
	tenant TEXT NOT NULL, 
	jti TEXT NOT NULL, 
	revoked_at DATETIME NOT NULL, 
	revoked_by TEXT NOT NULL, 
	expires_at DATETIME, 
	CONSTRAINT pk_access_revoked_tokens PRIMARY KEY (tenant, jti)
);
INSERT INTO "access_revoked_tokens" VALUES('acme','token-1','2026-11-26 21:46:51.851524','ann',NULL);
CREATE TABLE access_state (
	id INTEGER NOT NULL, 
	revision BIGINT NOT NULL, 
	CONSTRAINT pk_access_state PRIMARY KEY (id), 
	CONSTRAINT ck_access_state_one_row CHECK (id = 1)
);
INSERT INTO "access_state" VALUES(1,5);
CREATE TABLE batch_files (
	id TEXT NOT NULL, 
	tenant TEXT NOT NULL, 
	purpose TEXT NOT NULL, 
	filename TEXT NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, 
	CONSTRAINT pk_batch_files PRIMARY KEY (id)
);
INSERT INTO "batch_files" VALUES('file-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','acme','batch','in.jsonl',20,'2026-11-26 21:46:51.790343','2126-11-02 21:46:51.790343');
CREATE TABLE batch_jobs (
	id TEXT NOT NULL, 
	tenant TEXT NOT NULL, 
	caller JSON NOT NULL, 
	endpoint TEXT NOT NULL, 
	input_file_id TEXT NOT NULL, 
	output_file_id TEXT, 
	error_file_id TEXT, 
	output_seconds BIGINT, 
	labels JSON, 
	status TEXT NOT NULL, 
	errors JSON, 
	n_requests INTEGER NOT NULL, 
	n_completed INTEGER NOT NULL, 
	n_failed INTEGER NOT NULL, 
	n_input_tokens BIGINT NOT NULL, 
	n_output_tokens BIGINT NOT NULL, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, 
	in_progress_at DATETIME, 
	finalizing_at DATETIME, 
	cancelling_at DATETIME, 
	ended_at DATETIME, 
	holder TEXT, 
	held_until DATETIME, 
	CONSTRAINT pk_batch_jobs PRIMARY KEY (id)
);
INSERT INTO "batch_jobs" VALUES('batch_4c90962e600e4ec809df5ecba8636c71','acme','{"subject": "ci"}','/v1/completions','file-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',NULL,NULL,NULL,'{"job": "\u00fc"}','cancelling',NULL,0,0,0,0,0,'2026-11-26 21:46:51.790343','2126-11-02 21:46:51.790343',NULL,NULL,'2026-11-26 21:46:51.790343',NULL,NULL,NULL);
INSERT INTO "batch_jobs" VALUES('batch_49e9b4f7217090041bed598b6d7ff4f0','acme','{"subject": "ci"}','/v1/completions','file-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',NULL,NULL,NULL,'{"job": "\u00fc"}','in_progress',NULL,2,1,0,0,0,'2026-11-26 21:46:51.790343','2126-11-02 21:46:51.790343','2026-11-26 21:46:51.790343',NULL,NULL,NULL,'gateway','2126-11-02 21:46:51.790343');
CREATE TABLE batch_results (
	batch_id TEXT NOT NULL, 
	line INTEGER NOT NULL, 
	is_error BOOLEAN NOT NULL, 
	content TEXT NOT NULL, 
	CONSTRAINT pk_batch_results PRIMARY KEY (batch_id, line), 
	CONSTRAINT fk_batch_results_batch_jobs FOREIGN KEY(batch_id) REFERENCES batch_jobs (id) ON DELETE CASCADE
);
INSERT INTO "batch_results" VALUES('batch_49e9b4f7217090041bed598b6d7ff4f0',0,0,'{"custom_id": "a"}');
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
INSERT INTO "registry_compositions" VALUES('code:0.7+maths:0.3','["code", "maths"]',1,'2026-11-26 21:46:51.844183','ann','{"won": 9}');
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
INSERT INTO "registry_history" VALUES(1,1,'2026-11-26 21:46:51.816302','server','found','add','code','aaaaaaaaaaa1',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(2,2,'2026-11-26 21:46:51.820280','ann','because','add','code','bbbbbbbbbbb2',NULL,NULL,'forced');
INSERT INTO "registry_history" VALUES(3,3,'2026-11-26 21:46:51.821740','ann','because','add','code','ccccccccccc3',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(4,4,'2026-11-26 21:46:51.822948','ann','because','add','code','ddddddddddd4',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(5,5,'2026-11-26 21:46:51.824146','ann','because','add','maths','aaaaaaaaaaa1',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(6,6,'2026-11-26 21:46:51.825348','ann','','report','code','aaaaaaaaaaa1',NULL,NULL,'effect');
INSERT INTO "registry_history" VALUES(7,7,'2026-11-26 21:46:51.827084','ann','','report','code','aaaaaaaaaaa1',NULL,NULL,'parity');
INSERT INTO "registry_history" VALUES(8,8,'2026-11-26 21:46:51.828303','ann','because','load','code','aaaaaaaaaaa1',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(9,8,'2026-11-26 21:46:51.828303','ann','because','pin','code','aaaaaaaaaaa1',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(10,9,'2026-11-26 21:46:51.830069','ann','because','load','code','bbbbbbbbbbb2',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(11,10,'2026-11-26 21:46:51.831213','ann','because','point','code','aaaaaaaaaaa1','prod',NULL,'aaaaaaaaaaa1');
INSERT INTO "registry_history" VALUES(12,11,'2026-11-26 21:46:51.832728','ann','because','point','code','bbbbbbbbbbb2','canary',NULL,'bbbbbbbbbbb2:0.2');
INSERT INTO "registry_history" VALUES(13,12,'2026-11-26 21:46:51.833839','ann','because','promote','code','bbbbbbbbbbb2','prod','aaaaaaaaaaa1','bbbbbbbbbbb2');
INSERT INTO "registry_history" VALUES(14,12,'2026-11-26 21:46:51.833839','ann','because','promote','code','bbbbbbbbbbb2','canary','bbbbbbbbbbb2:0.2',NULL);
INSERT INTO "registry_history" VALUES(15,13,'2026-11-26 21:46:51.835240','ann','because','rollback','code','aaaaaaaaaaa1','prod','bbbbbbbbbbb2','aaaaaaaaaaa1');
INSERT INTO "registry_history" VALUES(16,14,'2026-11-26 21:46:51.837301','ann','because','point','code','bbbbbbbbbbb2','beta',NULL,'bbbbbbbbbbb2:0.125');
INSERT INTO "registry_history" VALUES(17,15,'2026-11-26 21:46:51.838939','ann','because','point','code','bbbbbbbbbbb2','old',NULL,'bbbbbbbbbbb2');
INSERT INTO "registry_history" VALUES(18,16,'2026-11-26 21:46:51.839902','ann','because','drop','code','bbbbbbbbbbb2','old','bbbbbbbbbbb2',NULL);
INSERT INTO "registry_history" VALUES(19,17,'2026-11-26 21:46:51.840616','ann','because','retire','code','ccccccccccc3',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(20,18,'2026-11-26 21:46:51.842021','ann','because','retire','code','ddddddddddd4',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(21,19,'2026-11-26 21:46:51.843145','ann','because','delete','code','ddddddddddd4',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(22,20,'2026-11-26 21:46:51.844183','ann','','evaluate','code:0.7+maths:0.3',NULL,NULL,NULL,'approved');
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
INSERT INTO "registry_reports" VALUES('code','aaaaaaaaaaa1','effect','2026-11-26 21:46:51.825348','ann','{"difference": 0.25, "texts": ["\u00fc", null]}');
INSERT INTO "registry_reports" VALUES('code','aaaaaaaaaaa1','parity','2026-11-26 21:46:51.827084','ann','{"max_error": 1e-06}');
CREATE TABLE registry_schema (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT registry_schema_pkc PRIMARY KEY (version_num)
);
INSERT INTO "registry_schema" VALUES('0003');
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
INSERT INTO "registry_versions" VALUES('code','aaaaaaaaaaa1',8,3000000000,'writes code, naïvely 🦙','["write a loop", "schreib \u201ehallo\u201c\n"]','[["2 + 2 =", "4"]]','org/base','folder','code',NULL,1,1,0,'2026-11-26 21:46:51.816302','server');
INSERT INTO "registry_versions" VALUES('code','bbbbbbbbbbb2',8,3000000000,'writes code, naïvely 🦙','["write a loop", "schreib \u201ehallo\u201c\n"]','[["2 + 2 =", "4"]]','org/base','store','hf://org/code','no effect',1,0,0,'2026-11-26 21:46:51.820280','ann');
INSERT INTO "registry_versions" VALUES('code','ccccccccccc3',8,3000000000,'writes code, naïvely 🦙','["write a loop", "schreib \u201ehallo\u201c\n"]','[["2 + 2 =", "4"]]','org/base','store','hf://org/code',NULL,0,0,1,'2026-11-26 21:46:51.821740','ann');
INSERT INTO "registry_versions" VALUES('maths','aaaaaaaaaaa1',8,3000000000,'writes code, naïvely 🦙','["write a loop", "schreib \u201ehallo\u201c\n"]','[["2 + 2 =", "4"]]','org/base','store','hf://org/code',NULL,0,0,0,'2026-11-26 21:46:51.824146','ann');
CREATE INDEX ix_registry_history_name_id ON registry_history (name, id);
CREATE TRIGGER access_audit_no_update BEFORE UPDATE ON access_audit BEGIN SELECT RAISE(ABORT, 'the audit log is only added to'); END;
CREATE TRIGGER access_audit_no_delete BEFORE DELETE ON access_audit BEGIN SELECT RAISE(ABORT, 'the audit log is only added to'); END;
CREATE INDEX ix_batch_files_tenant_created_at_id ON batch_files (tenant, created_at, id);
CREATE INDEX ix_batch_jobs_tenant_created_at_id ON batch_jobs (tenant, created_at, id);
CREATE INDEX ix_batch_jobs_ended_at ON batch_jobs (ended_at);
COMMIT;
