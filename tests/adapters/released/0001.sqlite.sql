BEGIN TRANSACTION;
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
INSERT INTO "registry_compositions" VALUES('code:0.7+maths:0.3','["code", "maths"]',1,'2026-11-26 18:40:20.621407','ann','{"won": 9}');
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
INSERT INTO "registry_history" VALUES(1,1,'2026-11-26 18:40:20.459019','server','found','add','code','aaaaaaaaaaa1',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(2,2,'2026-11-26 18:40:20.481689','ann','because','add','code','bbbbbbbbbbb2',NULL,NULL,'forced');
INSERT INTO "registry_history" VALUES(3,3,'2026-11-26 18:40:20.483559','ann','because','add','code','ccccccccccc3',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(4,4,'2026-11-26 18:40:20.493574','ann','because','add','code','ddddddddddd4',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(5,5,'2026-11-26 18:40:20.497426','ann','because','add','maths','aaaaaaaaaaa1',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(6,6,'2026-11-26 18:40:20.505464','ann','','report','code','aaaaaaaaaaa1',NULL,NULL,'effect');
INSERT INTO "registry_history" VALUES(7,7,'2026-11-26 18:40:20.521529','ann','','report','code','aaaaaaaaaaa1',NULL,NULL,'parity');
INSERT INTO "registry_history" VALUES(8,8,'2026-11-26 18:40:20.529431','ann','because','load','code','aaaaaaaaaaa1',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(9,8,'2026-11-26 18:40:20.529431','ann','because','pin','code','aaaaaaaaaaa1',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(10,9,'2026-11-26 18:40:20.536294','ann','because','load','code','bbbbbbbbbbb2',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(11,10,'2026-11-26 18:40:20.549226','ann','because','point','code','aaaaaaaaaaa1','prod',NULL,'aaaaaaaaaaa1');
INSERT INTO "registry_history" VALUES(12,11,'2026-11-26 18:40:20.553382','ann','because','point','code','bbbbbbbbbbb2','canary',NULL,'bbbbbbbbbbb2:0.2');
INSERT INTO "registry_history" VALUES(13,12,'2026-11-26 18:40:20.561387','ann','because','promote','code','bbbbbbbbbbb2','prod','aaaaaaaaaaa1','bbbbbbbbbbb2');
INSERT INTO "registry_history" VALUES(14,12,'2026-11-26 18:40:20.561387','ann','because','promote','code','bbbbbbbbbbb2','canary','bbbbbbbbbbb2:0.2',NULL);
INSERT INTO "registry_history" VALUES(15,13,'2026-11-26 18:40:20.566535','ann','because','rollback','code','aaaaaaaaaaa1','prod','bbbbbbbbbbb2','aaaaaaaaaaa1');
INSERT INTO "registry_history" VALUES(16,14,'2026-11-26 18:40:20.576845','ann','because','point','code','bbbbbbbbbbb2','beta',NULL,'bbbbbbbbbbb2:0.125');
INSERT INTO "registry_history" VALUES(17,15,'2026-11-26 18:40:20.586737','ann','because','point','code','bbbbbbbbbbb2','old',NULL,'bbbbbbbbbbb2');
INSERT INTO "registry_history" VALUES(18,16,'2026-11-26 18:40:20.593419','ann','because','drop','code','bbbbbbbbbbb2','old','bbbbbbbbbbb2',NULL);
INSERT INTO "registry_history" VALUES(19,17,'2026-11-26 18:40:20.601363','ann','because','retire','code','ccccccccccc3',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(20,18,'2026-11-26 18:40:20.603087','ann','because','retire','code','ddddddddddd4',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(21,19,'2026-11-26 18:40:20.613419','ann','because','delete','code','ddddddddddd4',NULL,NULL,NULL);
INSERT INTO "registry_history" VALUES(22,20,'2026-11-26 18:40:20.621407','ann','','evaluate','code:0.7+maths:0.3',NULL,NULL,NULL,'approved');
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
INSERT INTO "registry_reports" VALUES('code','aaaaaaaaaaa1','effect','2026-11-26 18:40:20.505464','ann','{"difference": 0.25, "texts": ["\u00fc", null]}');
INSERT INTO "registry_reports" VALUES('code','aaaaaaaaaaa1','parity','2026-11-26 18:40:20.521529','ann','{"max_error": 1e-06}');
CREATE TABLE registry_schema (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT registry_schema_pkc PRIMARY KEY (version_num)
);
INSERT INTO "registry_schema" VALUES('0001');
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
INSERT INTO "registry_versions" VALUES('code','aaaaaaaaaaa1',8,3000000000,'writes code, naïvely 🦙','["write a loop", "schreib \u201ehallo\u201c\n"]','[["2 + 2 =", "4"]]','org/base','folder','code',NULL,1,1,0,'2026-11-26 18:40:20.459019','server');
INSERT INTO "registry_versions" VALUES('code','bbbbbbbbbbb2',8,3000000000,'writes code, naïvely 🦙','["write a loop", "schreib \u201ehallo\u201c\n"]','[["2 + 2 =", "4"]]','org/base','store','hf://org/code','no effect',1,0,0,'2026-11-26 18:40:20.481689','ann');
INSERT INTO "registry_versions" VALUES('code','ccccccccccc3',8,3000000000,'writes code, naïvely 🦙','["write a loop", "schreib \u201ehallo\u201c\n"]','[["2 + 2 =", "4"]]','org/base','store','hf://org/code',NULL,0,0,1,'2026-11-26 18:40:20.483559','ann');
INSERT INTO "registry_versions" VALUES('maths','aaaaaaaaaaa1',8,3000000000,'writes code, naïvely 🦙','["write a loop", "schreib \u201ehallo\u201c\n"]','[["2 + 2 =", "4"]]','org/base','store','hf://org/code',NULL,0,0,0,'2026-11-26 18:40:20.497426','ann');
CREATE INDEX ix_registry_history_name_id ON registry_history (name, id);
COMMIT;
