"""What makes a playbook run: the interpreter's effects on this machine, and what people see of a run.

- a run from start to end: `api`, `session` (begin here), `driving`, `local` (the effects), `calls`, `quiet`, `threads`,
  `clock`, `given` (inputs from outside), `questions`, `typed_questions`, `people`, `orders`, `secret_waits`,
  `processes`, `world`, `surroundings`;
- actions: `registry`, `host` (the only place where they run), `context`, `clients`, `pins`, `parameters`, `outcomes`,
  `outputs`, `diff`, `unsettled`, `builtins`, `describe` (their schemas and documentation);
- secrets: `secrets`, `secret_looks` (which are missing), `masking`, `rotated` (what stands beside one);
- what is on disk: `store`, `journal`, `leases`, `records`, `artifacts`, `step_logs`, `files`, `compiled`;
- locks between runs: `locks`, `lock_store`, `lock_place`, `lock_waits`, `preempting`, `lease_locks`, `lease_record`,
  `lease_api`;
- before anything is done: `preview`, `plan`, `planning`, `plan_text`, `guard`, `preflight`, `gate`, `walk`, `lacks`,
  `tolerance`, `shape`, `graph`;
- afterwards: `recall`, `rounds`, `standing`;
- what people see, all folds over the journal: `view`, `folds`, `run_tree`, `objectives`, `report`, `report_page`,
  `gantt`, `wording`.
"""
