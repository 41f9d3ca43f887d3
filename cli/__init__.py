"""The command line: click commands, a module a group, and the screens.

- `main` (begin here); `running`, `planning`, `looking`, `logs`, `writing`, `reference`, `machine`: the commands;
- `preparing`: from a command line to what a run starts with; `asking`: questions on a terminal;
- `output_file`: what `-o` may write;
- `completing`: what a shell offers; `examples`: how each `--help` ends;
- what is said: `terminal`, `screen`, `telling`, `live`, `undoing`, `ending`, `onward`, `problems`, `crash`.
"""
