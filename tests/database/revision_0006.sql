BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0006');
CREATE TABLE backend (
	id INTEGER NOT NULL, 
	change BIGINT NOT NULL, 
	pinned_host TEXT, 
	CONSTRAINT pk_backend PRIMARY KEY (id), 
	CONSTRAINT ck_backend_one_row CHECK (id = 1)
);
INSERT INTO "backend" VALUES(1,2,NULL);
CREATE TABLE feedback_events (
	event_id INTEGER NOT NULL, 
	instance TEXT NOT NULL, 
	project_id BIGINT NOT NULL, 
	created BIGINT NOT NULL, 
	kind TEXT NOT NULL, 
	annotation_id BIGINT NOT NULL, 
	task_id BIGINT NOT NULL, 
	updated_us BIGINT NOT NULL, 
	content TEXT NOT NULL, 
	usable BOOLEAN NOT NULL, 
	statement TEXT NOT NULL, 
	task_data TEXT, 
	offered TEXT NOT NULL, 
	source TEXT NOT NULL, 
	received_at DATETIME NOT NULL, 
	CONSTRAINT pk_feedback_events PRIMARY KEY (event_id), 
	CONSTRAINT uq_feedback_events_identity UNIQUE (instance, project_id, created, kind, annotation_id, task_id, updated_us, content)
);
INSERT INTO "feedback_events" VALUES(1,'http://127.0.0.1:1',7,1795452148,'stated',1,1,1795453200000000,'081eb2ab3c6117439f4c2e19e55ee487d49a673e0055ddaee2ed2b27abb20514',1,'{"completed_by":null,"created_us":1795453200000000,"ground_truth":false,"id":1,"items":[{"from_name":"tags","kind":"choices","to_name":"image","values":[["red"]]}],"parent_prediction":null,"task":1,"unseen":false,"was_cancelled":false}','{"image":"data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAwAAAAICAIAAABChommAAAAFUlEQVR4nGNUTV3LQAgwEVQx7BUBAG8ZAUehkukUAAAAAElFTkSuQmCC"}','','webhook','2026-11-28 03:12:36.769013');
INSERT INTO "feedback_events" VALUES(2,'http://127.0.0.1:1',7,1795452148,'stated',2,2,1795453200000000,'ee5dbf85d1e35a504a8da4fc5c16326d4f16fd93016ff58e79324d71206c8fd7',1,'{"completed_by":null,"created_us":1795453200000000,"ground_truth":false,"id":2,"items":[{"from_name":"tags","kind":"choices","to_name":"image","values":[["red"]]}],"parent_prediction":null,"task":2,"unseen":false,"was_cancelled":false}','{"image":"data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAwAAAAICAIAAABChommAAAAFUlEQVR4nGP0OhXFQAgwEVQx7BUBAK67AX7tj/w4AAAAAElFTkSuQmCC"}','','webhook','2026-11-28 03:12:36.769531');
INSERT INTO "feedback_events" VALUES(3,'http://127.0.0.1:1',7,1795452148,'stated',3,3,1795453200000000,'89c9b6a7847c8ab646d2d5b535f927f5453793685869e45f406b369580fd1535',1,'{"completed_by":null,"created_us":1795453200000000,"ground_truth":false,"id":3,"items":[{"from_name":"tags","kind":"choices","to_name":"image","values":[["red"]]}],"parent_prediction":null,"task":3,"unseen":false,"was_cancelled":false}','{"image":"data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAwAAAAICAIAAABChommAAAAFElEQVR4nGPM12dnIASYCKoY9ooAyE4AtWqLyc0AAAAASUVORK5CYII="}','','webhook','2026-11-28 03:12:36.773885');
INSERT INTO "feedback_events" VALUES(4,'http://127.0.0.1:1',7,1795452148,'stated',2,2,1795453205000000,'996d56bb93b8ea4261cf7b6d9bcd2ebe497a240e1c17c077695127368f749573',1,'{"completed_by":null,"created_us":1795453205000000,"ground_truth":false,"id":2,"items":[{"from_name":"tags","kind":"choices","to_name":"image","values":[["red"]]}],"parent_prediction":null,"task":2,"unseen":false,"was_cancelled":false}','{"image":"data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAwAAAAICAIAAABChommAAAAFUlEQVR4nGP0OhXFQAgwEVQx7BUBAK67AX7tj/w4AAAAAElFTkSuQmCC"}','','webhook','2026-11-28 03:12:36.782661');
INSERT INTO "feedback_events" VALUES(5,'http://127.0.0.1:1',8,1795452149,'stated',7,7,1795453200000000,'2c8b0145eca601f04dcff225328f44ad641cb96021f281c4a9afe31b777f301e',1,'{"completed_by":null,"created_us":1795453200000000,"ground_truth":false,"id":7,"items":[{"from_name":"tags","kind":"choices","to_name":"image","values":[["red"]]}],"parent_prediction":null,"task":7,"unseen":false,"was_cancelled":false}','{"image":"data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAwAAAAICAIAAABChommAAAAFUlEQVR4nGNkPrybgRBgIqhi2CsCAMPlAZF2Fc2yAAAAAElFTkSuQmCC"}','','webhook','2026-11-28 03:12:36.786019');
CREATE TABLE jobs (
	job_id TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	instance TEXT NOT NULL, 
	project_id BIGINT NOT NULL, 
	created BIGINT NOT NULL, 
	state TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	again TEXT, 
	requested_at DATETIME NOT NULL, 
	not_before DATETIME NOT NULL, 
	queued_at DATETIME, 
	queued_as TEXT, 
	started_at DATETIME, 
	heartbeat_at DATETIME, 
	finished_at DATETIME, 
	fence BIGINT NOT NULL, 
	attempt INTEGER NOT NULL, 
	worker TEXT, 
	stage TEXT, 
	step INTEGER NOT NULL, 
	steps INTEGER NOT NULL, 
	eta_s FLOAT, 
	message TEXT NOT NULL, 
	result JSON, 
	last_event BIGINT, options JSON, kept JSON, request TEXT, 
	CONSTRAINT pk_jobs PRIMARY KEY (job_id), 
	CONSTRAINT ck_jobs_known_state CHECK (state IN ('requested', 'running', 'done', 'failed'))
);
INSERT INTO "jobs" VALUES('86e79a0437374a04a191ffafe023547f','train','http://127.0.0.1:1',7,1795452148,'done','pressed',NULL,'2026-11-28 03:12:36.788000','2026-11-28 03:12:36.788000',NULL,NULL,'2026-11-28 03:12:36.802000','2026-11-28 03:12:36.806000','2026-11-28 03:12:36.806000',1,1,'elsewhere/1',NULL,0,0,NULL,'v0001 is served. It ranks better.','{"verdict": {"outcome": "accept"}, "version": "v0001", "seconds": {"fit": 1.5}}',4,'null',NULL,NULL);
INSERT INTO "jobs" VALUES('744ced60af614be89d23417afdcc65c9','refresh','http://127.0.0.1:1',7,1795452148,'requested','v0001 is served',NULL,'2026-11-28 03:12:36.808000','2026-11-28 03:12:36.808000','2026-11-28 03:12:36.864000','rq-1',NULL,NULL,NULL,0,0,NULL,NULL,0,0,NULL,'',NULL,NULL,'null',NULL,NULL);
INSERT INTO "jobs" VALUES('2e9d725a37864c688d6a88f2697d272a','train','http://127.0.0.1:1',8,1795452149,'failed','pressed',NULL,'2026-11-28 03:12:36.822000','2026-11-28 03:12:36.822000',NULL,NULL,'2026-11-28 03:12:36.825000','2026-11-28 03:12:36.825000','2026-11-28 03:12:36.827000',1,1,'elsewhere/1',NULL,0,0,NULL,'The label config has nothing to tag.',NULL,5,'null',NULL,NULL);
INSERT INTO "jobs" VALUES('9041c21912c14768abdc483aad4f3d77','train','http://127.0.0.1:1',7,1795452148,'requested','pressed again',NULL,'2026-11-28 03:12:36.828000','2096-11-28 04:12:36.828000',NULL,NULL,NULL,NULL,NULL,0,0,NULL,NULL,0,0,NULL,'',NULL,NULL,'null',NULL,NULL);
INSERT INTO "jobs" VALUES('3be36d840aeb4a269f823e94670e55e4','prelabel','http://127.0.0.1:1',7,1795452148,'running','late','late again','2026-11-28 03:12:36.838000','2026-11-28 03:12:36.838000',NULL,NULL,'2026-11-28 03:12:36.842000','2026-11-28 03:12:36.850000',NULL,1,1,'elsewhere/1','predict',2,9,4.5,'',NULL,NULL,'{"which": ["unlabelled"], "tasks": [3, 4, 9], "per_second": null}','{"version": "starter-v0001-aaaaaaaaaaaa", "portion": [3, 4], "at": "2026-11-28T03:12:36.846000+00:00"}',NULL);
CREATE TABLE offered_tags (
	row_id INTEGER NOT NULL, 
	instance TEXT NOT NULL, 
	project_id BIGINT NOT NULL, 
	created BIGINT NOT NULL, 
	digest TEXT NOT NULL, 
	tags TEXT NOT NULL, 
	first_seen_at DATETIME NOT NULL, 
	CONSTRAINT pk_offered_tags PRIMARY KEY (row_id), 
	CONSTRAINT uq_offered_tags_identity UNIQUE (instance, project_id, created, digest)
);
CREATE TABLE projects (
	row_id INTEGER NOT NULL, 
	instance TEXT NOT NULL, 
	project_id BIGINT NOT NULL, 
	created BIGINT NOT NULL, 
	label_config TEXT NOT NULL, 
	access_token TEXT, 
	extra_params JSON NOT NULL, 
	extra_params_error TEXT, 
	set_options JSON NOT NULL, 
	revision BIGINT NOT NULL, 
	change BIGINT NOT NULL, 
	first_seen_at DATETIME NOT NULL, 
	updated_at DATETIME NOT NULL, 
	CONSTRAINT pk_projects PRIMARY KEY (row_id), 
	CONSTRAINT uq_projects_instance_project_id_created UNIQUE (instance, project_id, created)
);
INSERT INTO "projects" VALUES(1,'http://127.0.0.1:1',7,1795452148,'<View><Image name="image" value="$image"/><Choices name="tags" toName="image" choice="multiple">
<Choice value="red"/><Choice value="green"/><Choice value="blue"/></Choices></View>','tttttttttttttttttttttttttttttttttttttttt','{}',NULL,'{}',1,1,'2026-11-28 03:12:36.746176','2026-11-28 03:12:36.746176');
INSERT INTO "projects" VALUES(2,'http://127.0.0.1:1',8,1795452149,'<View><Image name="image" value="$image"/><Choices name="tags" toName="image" choice="multiple">
<Choice value="red"/><Choice value="green"/><Choice value="blue"/></Choices></View>','tttttttttttttttttttttttttttttttttttttttt','{}',NULL,'{}',1,2,'2026-11-28 03:12:36.760458','2026-11-28 03:12:36.760458');
CREATE TABLE served (
	row_id INTEGER NOT NULL, 
	instance TEXT NOT NULL, 
	project_id BIGINT NOT NULL, 
	created BIGINT NOT NULL, 
	version TEXT, 
	pinned BOOLEAN NOT NULL, 
	change BIGINT NOT NULL, 
	updated_at DATETIME NOT NULL, 
	CONSTRAINT pk_served PRIMARY KEY (row_id), 
	CONSTRAINT uq_served_instance_project_id_created UNIQUE (instance, project_id, created)
);
INSERT INTO "served" VALUES(1,'http://127.0.0.1:1',7,1795452148,'v0001',0,1,'2026-11-28 03:12:36.874140');
CREATE TABLE shown (
	row_id INTEGER NOT NULL, 
	instance TEXT NOT NULL, 
	project_id BIGINT NOT NULL, 
	created BIGINT NOT NULL, 
	task_id BIGINT NOT NULL, 
	model_version TEXT NOT NULL, 
	version TEXT, 
	prediction_id BIGINT, 
	shown_at DATETIME NOT NULL, 
	source TEXT NOT NULL, 
	choices TEXT NOT NULL, 
	images TEXT NOT NULL, 
	CONSTRAINT pk_shown PRIMARY KEY (row_id), 
	CONSTRAINT uq_shown_identity UNIQUE (instance, project_id, created, task_id, model_version)
);
CREATE TABLE task_images (
	row_id INTEGER NOT NULL, 
	instance TEXT NOT NULL, 
	project_id BIGINT NOT NULL, 
	created BIGINT NOT NULL, 
	task_id BIGINT NOT NULL, 
	reference TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	phash TEXT NOT NULL, 
	seen_at DATETIME NOT NULL, 
	CONSTRAINT pk_task_images PRIMARY KEY (row_id), 
	CONSTRAINT uq_task_images_identity UNIQUE (instance, project_id, created, task_id, reference)
);
CREATE TABLE versions (
	row_id INTEGER NOT NULL, 
	instance TEXT NOT NULL, 
	project_id BIGINT NOT NULL, 
	created BIGINT NOT NULL, 
	number BIGINT NOT NULL, 
	digest TEXT NOT NULL, 
	bundle_digest TEXT NOT NULL, 
	outcome TEXT NOT NULL, 
	lineage JSON NOT NULL, 
	verdict JSON NOT NULL, 
	quarantined TEXT, 
	removed BOOLEAN NOT NULL, 
	recorded_at DATETIME NOT NULL, 
	CONSTRAINT pk_versions PRIMARY KEY (row_id), 
	CONSTRAINT uq_versions_instance_project_id_created_number UNIQUE (instance, project_id, created, number)
);
INSERT INTO "versions" VALUES(1,'http://127.0.0.1:1',7,1795452148,1,'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','accept','{"parent": null}','{"outcome": "accept"}',NULL,0,'2026-11-28 03:12:36.874140');
CREATE INDEX ix_projects_change ON projects (change);
CREATE INDEX ix_feedback_events_order ON feedback_events (project_id, created, event_id);
CREATE INDEX ix_served_change ON served (change);
CREATE UNIQUE INDEX uq_jobs_open ON jobs (kind, instance, project_id, created) WHERE state IN ('requested', 'running');
CREATE INDEX ix_jobs_project ON jobs (project_id, created, kind, requested_at);
CREATE INDEX ix_jobs_state ON jobs (state);
COMMIT;
