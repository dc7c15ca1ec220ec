"""Money, time and memory of a run before it starts.

Read ``estimate`` first: the result, and the rule for epochs. Then by subject:

- hosted runs: ``profiles`` (what a host can do and until when), ``price_table`` with
  ``genai_prices``, ``hosted`` (tokens x epochs x price)
- local runs: ``model_shape``, ``gpus``, ``memory`` (of one step), ``batch_plan`` (steps and
  padding), ``calibration`` (the speed of this machine), ``assumptions``, ``local`` (all of it)
- serving the result: ``break_even`` (arithmetic), ``serving``
"""
