"""The commands of ``ftg`` by name, as strings: the root help imports none of them."""

from __future__ import annotations

from collections.abc import Sequence

# name, of one word or two -> (module:function below this package, one line of help, group)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": (
        "demo.command:demo",
        "Train a tiny model here and chat with it: no key, no GPU",
        "Start",
    ),
    "doctor": ("doctor:doctor", "Check this machine: home, packages, GPU, keys, dates", "Start"),
    "backends": ("catalog:backends", "Where a job can run, and what each can do", "Start"),
    "models": ("catalog:models", "Models that can be trained, and until when", "Start"),
    "prices": ("prices:prices", "Prices with source and date; your own prices", "Start"),
    "config": ("config:config", "Your limits: a budget per month, per job", "Start"),
    "validate": ("validate:validate", "Check a dataset; needs no key and no network", "Before"),
    "rules": ("rules:rules", "What validate checks, and why; 'rules CODE' for one", "Before"),
    "convert": ("convert:convert", "Write a dataset in another format, without loss", "Before"),
    "split": ("split:split", "Split a dataset into train and validation", "Before"),
    "preview": ("preview:preview", "Rows as the model sees them, trained tokens marked", "Before"),
    "estimate": ("estimate:estimate", "Cost, time and memory of each option, offline", "Before"),
    "advise": ("advise:advise", "Prompt, retrieval or fine-tuning; how; where", "Before"),
    "submit": ("submit:submit", "Check, estimate, confirm, then start a job", "Jobs"),
    "list": ("jobs:list_jobs", "Jobs, newest first", "Jobs"),
    "status": ("jobs:status", "One job: status, metrics, cost, result", "Jobs"),
    "watch": ("watch:watch", "Live screen of a job; Ctrl-C leaves it running", "Jobs"),
    "wait": ("watch:wait", "Block until jobs end; the exit code says how", "Jobs"),
    "logs": ("logs:logs", "The raw log of a job, or its events", "Jobs"),
    "events": ("logs:events", "Events of a job", "Jobs"),
    "metrics": ("logs:metrics", "Losses and learning rates by step", "Jobs"),
    "checkpoints": ("logs:checkpoints", "Models saved during training", "Jobs"),
    "report": ("report:report", "One page of a job, or of a comparison", "Jobs"),
    "costs": ("costs:costs", "Estimated and actual cost of jobs", "Jobs"),
    "cancel": ("jobs:cancel", "Stop a job", "Jobs"),
    "pause": ("jobs:pause", "Let a job of this machine make way until it is resumed", "Jobs"),
    "resume": ("jobs:resume", "Let a job that has stopped go on as the same job", "Jobs"),
    "settle": ("jobs:settle", "Say what became of a job in doubt", "Jobs"),
    "rm": ("removal:rm", "Remove all texts of a job; what it cost stays", "Jobs"),
    "prune": ("removal:prune", "Remove old data, here and with --remote at hosts", "Jobs"),
    "chat": ("chat:chat", "Talk to a trained model, or to a base model", "Models"),
    "compare": ("compare:compare", "Which model is better, what each costs, how sure", "Models"),
    "models add": ("models_add:add", "Make a fine-tune of a host a model of this home", "Models"),
    "check": ("check:check", "Does a model behave as its guide says? Its unit test", "Models"),
    "download": ("download:download", "Bring a hosted model's files here, if it has any", "Models"),
    "merge": ("merge:merge", "Make a whole model of an adapter and its base", "Models"),
    "export": ("export:export", "A folder for Ollama, vLLM, llama.cpp, ... to serve it", "Models"),
    "push": ("push:push", "Send a model to the Hugging Face Hub", "Models"),
    "pull": ("pull:pull", "Bring a model from the Hugging Face Hub", "Models"),
    "card": ("card:card", "A model card: base, data, settings, figures, how to load", "Models"),
    "deploy": ("deploy:deploy", "Deploy a model tuned at Azure, or end its deployment", "Models"),
    "migrate list": (
        "migrate_list:list_fine_tunes",
        "Your fine-tunes at a host, first lost first",
        "Leave",
    ),
    "migrate fetch": ("migrate_fetch:fetch", "Save what a host keeps of them here", "Leave"),
    "migrate record": ("migrate_record:record", "Keep what a fine-tune answers", "Leave"),
    "migrate plan": ("migrate_plan:plan", "Where a fine-tune could go, at what price", "Leave"),
    "migrate run": ("migrate_run:run", "Train it there, compare, go or no-go", "Leave"),
}
# The first words of commands that are none by themselves.
FAMILIES = {
    "migrate": "Leave a host before it stops: take stock of your fine-tunes, save them, and plan\n"
    "where they go. Step by step: docs/leaving-openai.md",
}
# Commands that count tokens first.
COUNTING = frozenset(("validate", "estimate", "advise", "submit"))
ALIASES = {
    "ls": "list",
    "ps": "list",
    "get": "status",
    "retrieve": "status",
    "create": "submit",
    "train": "submit",
    "remove": "rm",
    "delete": "rm",
}
# Words of other tools: not accepted, since they may mean something else, but suggested.
MEANT = {
    "run": "submit",
    "start": "submit",
    "launch": "submit",
    "finetune": "submit",
    "test": "check",
    "eval": "check",
    "lint": "validate",
    "price": "estimate",
    "cost": "costs",
    "budget": "costs",
    "show": "status",
    "info": "status",
    "describe": "status",
    "log": "logs",
    "plot": "metrics --plot",
    "stop": "cancel",
    "kill": "cancel",
    "clean": "prune",
    "prompt": "chat",
    "generate": "chat",
    "env": "doctor",
    "inventory": "migrate list",
    "fetch": "migrate fetch",
    "record": "migrate record",
    "plan": "migrate plan",
    "leave": "migrate list",
}
# What people look for that is no command.
ELSEWHERE = {
    **dict.fromkeys(("login", "auth", "keys"), "Keys are read from the environment: ftg doctor"),
    "serve": "'ftg status JOB' says where the result is, and 'ftg export' writes it for the tool "
    "that is to serve it.",
    "init": "There is nothing to set up; a first job: ftg demo",
}
GROUPS = {
    "Start": "Get started",
    "Before": "Before you train",
    "Jobs": "Jobs (JOB: an id, its beginning, or 'latest')",
    "Models": "Trained models",
    "Leave": "Leave OpenAI or another host (MODEL: the id of a fine-tune)",
}
EXAMPLES = (
    ("ftg demo", "everything in a few minutes"),
    ("ftg validate train.jsonl", "what is wrong, line by line"),
    ("ftg estimate train.jsonl --model gpt-4.1-mini-2025-04-14", ""),
    ("ftg submit train.jsonl --model builtin/tiny --backend local", ""),
    ("ftg watch latest", ""),
    ("ftg migrate list", "your fine-tunes at OpenAI"),
)
GLOBAL_OPTIONS = "Everywhere: --home DIR  --no-color  --debug  -h, --help"
FLAGS = ("--json", "-q", "--quiet")  # accepted before and within the name of a command, too


def split_name(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the command that words call, by its own name, and its arguments; where there is no
    such command, the first word and the rest."""
    first, rest = words[0], [*words[1:]]
    second = next((word for word in rest if word not in FLAGS), None)
    two = f"{first} {ALIASES.get(second, second)}" if second else ""
    if two in COMMANDS:
        rest.remove(second or "")
        return two, rest
    return ALIASES.get(first, first), rest


def second_words(first: str) -> list[str]:
    """Return the second words of the commands whose first word is this."""
    return [name.partition(" ")[2] for name in COMMANDS if name.startswith(f"{first} ")]
