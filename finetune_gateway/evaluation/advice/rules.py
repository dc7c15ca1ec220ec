"""The rules of ``advise``: when each holds, what it says, and where it is from.

Data, not code: docs/advise.md shows this table, and a test holds it against that page. A rule
without a source is our judgement, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass

OURS = "our judgement"

FIRST_GAINS = 50  # rows
LEAST_ROWS = 10
ROWS_A_CLASS = 100
FACTS = 0.3  # share of rows whose answers hold facts that change
SOME_FACTS = 0.1
OTHER_FACTS = 0.6  # share of rows whose answers hold names or figures that the prompts do not
CONTRADICTING = 0.1  # share of rows
FEW_CONTRADICT = 0.02
ONE_FORMAT = 0.9  # share of answers
FEW_ANSWERS = 0.1  # distinct answers to rows
ALIKE = 0.4  # share of answers that begin or end alike, or have a word in common
SHORT = 40  # words: in longer answers a word in common is nothing special
WAYS, IN_WAYS = 8, 0.6  # or begin or end in one of so many ways
ONE_LOOK = 0.8  # share of answers that look alike, and of prompts half as many
CALLING = 0.2  # share of rows with calls of tools
ONE_SYSTEM = 0.8  # share of rows with one system prompt
ONE_LENGTH = 4  # the length that nine in ten answers do not pass, over that of one in ten
REFUSED = 0.2  # share of rows with errors
MADE_FROM_ONE = 0.5  # share of rows that nearly repeat an earlier one
CONFIDENTIAL = 0.2  # share of rows that call themselves so
PRIVATE = 0.02  # share of rows with personal data
ENOUGH = 0.95  # the lower end of what a prompt reaches: nothing is left to train for
SOON_DAYS = 90


@dataclass(frozen=True)
class Source:
    """Where a rule is from. ``read``: the day on which we read it."""

    title: str
    url: str
    read: str = "2026-12-01"


SFT_GUIDE = Source(
    "OpenAI, supervised fine-tuning",
    "https://platform.openai.com/docs/guides/supervised-fine-tuning",
)
BEST_PRACTICES = Source(
    "OpenAI, fine-tuning best practices",
    "https://developers.openai.com/api/docs/guides/fine-tuning-best-practices",
)
OPTIMIZATION = Source(
    "OpenAI, model optimization",
    "https://platform.openai.com/docs/guides/model-optimization",
)
ACCURACY = Source(
    "OpenAI, optimizing LLM accuracy",
    "https://platform.openai.com/docs/guides/optimizing-llm-accuracy",
)
MICROSOFT = Source(
    "Microsoft Learn, fine-tune a model for consistent behavior",
    "https://learn.microsoft.com/en-gb/training/modules/optimize-generative-ai-model-performance/"
    "4-fine-tune-model",
)
GEKHMAN = Source(
    "Gekhman et al. 2024, new knowledge and hallucinations", "https://arxiv.org/abs/2405.05904"
)
OVADIA = Source("Ovadia et al. 2023, fine-tuning or retrieval", "https://arxiv.org/abs/2312.05934")
FINETUNEBENCH = Source(
    "FineTuneBench 2024, new facts by hosted fine-tuning", "https://arxiv.org/abs/2411.05059"
)
GOOGLE_PREFERENCES = Source(
    "Google, preference tuning for Gemini",
    "https://docs.cloud.google.com/vertex-ai/generative-ai/docs/models/gemini-preference-tuning",
)
TOGETHER_PREFERENCES = Source(
    "Together, preference fine-tuning",
    "https://docs.together.ai/docs/fine-tuning/preference-tuning",
)
KTO = Source("Ethayarajh et al. 2024, KTO", "https://arxiv.org/abs/2402.01306")
CLOSING = Source(
    "OpenAI, deprecations", "https://developers.openai.com/api/docs/deprecations", "2026-11-21"
)


@dataclass(frozen=True)
class Rule:
    """One rule. ``topic``: what it answers; ``when``, ``says``: in words, as the page has them.
    ``note``: which part is our judgement."""

    topic: str
    when: str
    says: str
    sources: tuple[Source, ...] = ()
    note: str = OURS


RULES: dict[str, Rule] = {
    # -- what to do
    "refused_rows": Rule(
        "approach",
        f"nothing can be read, or {REFUSED:.0%} of the rows or more have errors",
        "fix the file first; can't tell more",
    ),
    "no_answers": Rule(
        "approach",
        "prompts without answers",
        f"prompt first; write {FIRST_GAINS} good answers",
        (SFT_GUIDE,),
        "",
    ),
    "damaged": Rule(
        "approach",
        f"{REFUSED:.0%} of the rows or more have damaged texts: letters lost, tokens of a template",
        "can't tell: fix the texts first",
        (BEST_PRACTICES,),
        "The share is our judgement.",
    ),
    "facts": Rule(
        "approach",
        f"{FACTS:.0%} of the answers or more hold prices, dates, numbers of things, addresses or, "
        "asked for, names that nothing in their prompts says; or one prompt has answers that "
        "differ in these alone",
        "retrieval: put the facts into the prompt, then train how to answer, if at all",
        (BEST_PRACTICES, ACCURACY, OVADIA, GEKHMAN, FINETUNEBENCH),
        "The share is our judgement.",
    ),
    "contradictions": Rule(
        "approach",
        f"{CONTRADICTING:.0%} of the rows or more ask what has another short answer elsewhere, "
        "turn a pair round, or have the other label",
        "can't tell: settle what the right answers are first",
        (BEST_PRACTICES,),
        "OpenAI: a model is hardly better than the agreement of who wrote the rows. The share is "
        "our judgement.",
    ),
    "documents": Rule(
        "approach",
        "plain texts without prompts",
        "retrieval, if the texts are to be known; can't tell what else they are for",
        (OVADIA,),
        "",
    ),
    "prompt_does": Rule(
        "approach",
        f"a comparison shows a prompt or examples no worse than the tuned model, or at "
        f"{ENOUGH:.0%} and above",
        "prompt: training gains nothing that was measured",
    ),
    "tuned_better": Rule(
        "approach",
        "a comparison shows the tuned model better than prompt and examples",
        "fine-tune",
    ),
    "room_left": Rule(
        "approach",
        "a comparison of prompts alone shows that there is something to gain",
        "fine-tune",
    ),
    "prompts_alone": Rule(
        "approach",
        "prompts were compared, by a measure that does not say what is left",
        "the rules below decide; compare the tuned model with the prompts",
    ),
    "measured_undecided": Rule(
        "approach",
        "a comparison could not tell them apart",
        "can't tell; how many rows would do",
    ),
    "few_rows": Rule(
        "approach",
        f"fewer than {FIRST_GAINS} different rows",
        f"prompt first, with a few of the rows as examples; and how many are missing to "
        f"{FIRST_GAINS}",
        (SFT_GUIDE,),
        "",
    ),
    "one_format": Rule(
        "approach",
        f"{ONE_FORMAT:.0%} of the answers or more are JSON with the same keys, pieces of their "
        f"prompts, or one of a few labels, the rarest in fewer than {ROWS_A_CLASS} rows",
        "prompt first: a prompt, or a schema, can ask for that; train if it falls short",
        (OPTIMIZATION,),
        "That a format is asked for more cheaply than trained is our judgement.",
    ),
    "few_answers": Rule(
        "approach",
        f"fewer different answers than {FEW_ANSWERS:.0%} of the rows, which are no labels",
        "prompt first: a prompt can list them",
    ),
    "own_facts": Rule(
        "approach",
        f"{OTHER_FACTS:.0%} of the answers or more are short and hold names, codes or figures that "
        "their prompts do not, and have no style in common",
        "can't tell: whether the base model knows them decides between retrieval and a prompt",
        (GEKHMAN,),
        "",
    ),
    "nothing_in_common": Rule(
        "approach",
        "no system prompt, word, beginning, end, look or call of tools is common to the answers",
        "can't tell what the rows teach: measure a prompt",
    ),
    "one_behaviour": Rule(
        "approach",
        f"{FIRST_GAINS} rows or more with a behaviour in common, and no rule above",
        "fine-tune",
        (SFT_GUIDE, MICROSOFT),
        "",
    ),
    "not_measured": Rule(
        "approach",
        "no comparison of these rows with a prompt or examples is in the home folder",
        "measure these before paying for training",
        (OPTIMIZATION, MICROSOFT),
        "",
    ),
    # -- by which method
    "imitate": Rule("method", "each row shows one good answer", "SFT", (SFT_GUIDE,), ""),
    "pairs": Rule(
        "method",
        "preference pairs alone",
        "both: SFT on the preferred answers first, then DPO from that model",
        (GOOGLE_PREFERENCES, TOGETHER_PREFERENCES),
        "Together: DPO alone, if the answers are near to what the base says.",
    ),
    "both_kinds": Rule(
        "method",
        "rows with one good answer, and preference pairs",
        "both: SFT on the rows, then DPO from that model on the pairs",
        (GOOGLE_PREFERENCES, TOGETHER_PREFERENCES),
        "",
    ),
    "labelled": Rule(
        "method",
        "answers with a label, good or bad",
        "SFT on the good ones, then KTO, where a place has it",
        (KTO,),
        "The order is our judgement.",
    ),
    "could_be_pairs": Rule(
        "method",
        "several answers to one prompt with scores beside them",
        "both: SFT, then DPO on pairs of a better and a worse answer to one prompt",
        (TOGETHER_PREFERENCES,),
        "",
    ),
    "texts": Rule("method", "plain texts", "continued pretraining, if training at all"),
    "texts_with_answers": Rule(
        "method",
        "plain texts that each hold a question and an answer",
        "SFT, once they are written as prompt and answer: then the answer alone is trained",
    ),
    # -- how many rows
    "enough_rows": Rule(
        "rows",
        f"{FIRST_GAINS} different rows or more",
        "enough to begin; OpenAI sees improvements from 50 to 100 rows",
        (SFT_GUIDE,),
        "For pairs the same figure is our judgement.",
    ),
    "more_rows": Rule(
        "rows",
        f"fewer than {FIRST_GAINS} different rows",
        f"how many more to {FIRST_GAINS}; no host takes fewer than {LEAST_ROWS}",
        (SFT_GUIDE,),
        "",
    ),
    "rows_a_class": Rule(
        "rows",
        f"labels with fewer than {ROWS_A_CLASS} rows",
        "how many more of the rarest",
        note="OpenAI's older guide names about 100 rows a class; it is not online any more.",
    ),
    # -- where
    "private": Rule(
        "place",
        f"keys or passwords, personal data in {PRIVATE:.0%} of the rows or more, or --private",
        "local: the data stay on this machine",
    ),
    "confidential": Rule(
        "place",
        f"{CONFIDENTIAL:.0%} of the rows or more call themselves confidential or internal",
        "local: the data stay on this machine",
    ),
    "some_private": Rule(
        "place", "personal data in fewer rows", "look at these before anything is sent"
    ),
    "host_ends": Rule(
        "place",
        f"a host takes no more jobs, or stops answering within {SOON_DAYS} days",
        "not there",
        (CLOSING,),
        f"The {SOON_DAYS} days are our judgement.",
    ),
    "no_method_here": Rule(
        "place",
        "a method of the advice is trained at hosts alone so far, or nowhere",
        "hosted for that part, or can't tell",
    ),
    "no_room": Rule("place", "it does not fit this machine", "hosted, or another GPU (--gpu)"),
    "one_sided": Rule("place", "every place that was named is of one sort", "that"),
    "either": Rule(
        "place",
        "both are possible",
        "either: the volume decides (ftg estimate --monthly-requests)",
    ),
    "nowhere_known": Rule(
        "place", "no place is known to take it", "can't tell: name a base with --model"
    ),
}
