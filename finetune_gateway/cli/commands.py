"""The commands of ``ftg``: a table of names, so that the root help imports none of them."""

from __future__ import annotations

# name -> (module:function below this package, one line of help, group)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": (
        "demo.command:demo",
        "Train a tiny model here and chat with it: no key, no GPU",
        "Start",
    ),
    "doctor": ("doctor:doctor", "Check this machine: home, packages, GPU, keys, dates", "Start"),
    "backends": ("catalog:backends", "Where a job can run, and what each place can do", "Start"),
    "models": ("catalog:models", "Models that can be trained, and until when", "Start"),
    "prices": ("prices:prices", "What things cost, by whom and when; your own rows", "Start"),
    "config": ("config:config", "Your limits: a budget for the month, for a job", "Start"),
    "validate": ("validate:validate", "Check a dataset; needs no key and no network", "Before"),
    "rules": ("rules:rules", "What validate looks for, and why; 'rules CODE' for one", "Before"),
    "convert": ("convert:convert", "Write a dataset in another format, without loss", "Before"),
    "split": ("split:split", "Cut a dataset into train and validation", "Before"),
    "preview": ("preview:preview", "Rows as the model sees them, trained tokens marked", "Before"),
    "estimate": ("estimate:estimate", "Price, time and memory of each option, offline", "Before"),
    "submit": ("submit:submit", "Check, price, confirm, then start a job", "Jobs"),
    "list": ("jobs:list_jobs", "Jobs, newest first", "Jobs"),
    "status": ("jobs:status", "One job: where it stands and what came of it", "Jobs"),
    "watch": ("watch:watch", "Live screen of a job; Ctrl-C leaves it running", "Jobs"),
    "wait": ("watch:wait", "Block until jobs end; the exit code says how", "Jobs"),
    "logs": ("logs:logs", "The raw log of a job, or its events", "Jobs"),
    "events": ("logs:events", "What a job has said", "Jobs"),
    "metrics": ("logs:metrics", "Losses and rates by step", "Jobs"),
    "checkpoints": ("logs:checkpoints", "Models saved during training", "Jobs"),
    "report": ("report:report", "What jobs cost, beside what was estimated", "Jobs"),
    "cancel": ("jobs:cancel", "Stop a job", "Jobs"),
    "chat": ("chat:chat", "Talk to a trained model, or to a base model", "Models"),
}
COUNTING = frozenset(("validate", "estimate", "submit"))  # what begins with a count of tokens
ALIASES = {
    "ls": "list",
    "ps": "list",
    "get": "status",
    "retrieve": "status",
    "create": "submit",
    "train": "submit",
}
GROUPS = {
    "Start": "Get started",
    "Before": "Before you pay",
    "Jobs": "Jobs (JOB: an id, its beginning, or 'latest')",
    "Models": "Trained models",
}
EXAMPLES = (
    ("ftg demo", "the whole way in a minute"),
    ("ftg validate train.jsonl", "what is wrong, line by line"),
    ("ftg estimate train.jsonl --model gpt-4.1-mini-2025-04-14", ""),
    ("ftg submit train.jsonl --model builtin/tiny --backend local", ""),
    ("ftg watch latest", ""),
)
EVERYWHERE = "Everywhere: --home DIR  --no-color  --debug  -h, --help"
