"""The language and its meaning; pure. In the order in which a playbook goes through it:

- text to plain data, with places: `source`, `yaml_reader`, `yaml_errors`, `yaml_text`, `places`;
- form: `grammar` (every key, once), `form`, `schema`, `catalogue` (the actions, as data), `editor`;
- meaning, all problems at once: `load` (begin here), `merge`, `declare`, `build`, `build_action`, `build_playbook`,
  `naming`, `quoting`, `shell_text`, `references`, `repeats`, `rules`, `answerable`, `inputs`, `located`, `worst_case`,
  `problems`, `findings`, `errors`;
- what it then is: `model`, `frozen`;
- expressions: `expressions`, `plain_expressions`, `environment`, `syntax`, `filters`, `jinja_filters`, `patterns`,
  `bounds`, `template_files`, `values`, `times`, `unknown`, `scope`;
- what it does: `engine` (begin here), `effects` (all that it asks of the world), `run`, `playing`, `attempts`,
  `gather`, `people`, `lane`, `events`, `outcome`;
- how it is taken back: `unwind`, `undo`, `changes`, `doubt`, `rounds`.
"""
