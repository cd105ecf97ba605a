"""Train an adapter for `neutral` with transformers' Trainer.

python examples/trainer.py MODEL OUT
"""

from __future__ import annotations

import sys

from peft import LoraConfig, get_peft_model
from questions import questions
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)

from lragent.training import prepare_for_neutral, write_sidecar

model_name, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(model_name)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token


def encode(sample: dict[str, str]) -> dict[str, list[int]]:
    """Token ids, and labels that are -100 up to the output."""
    prompt = tokenizer(sample["prompt"])["input_ids"]
    output = tokenizer(sample["completion"], add_special_tokens=False)["input_ids"]
    output.append(tokenizer.eos_token_id)
    return {"input_ids": prompt + output, "labels": [-100] * len(prompt) + output}


lora = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_name), lora)
prepare_for_neutral(model)  # the only line that differs from ordinary training

trainer = Trainer(
    model,
    TrainingArguments(
        out,
        max_steps=20,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        logging_steps=5,
        save_strategy="no",
        use_cpu=True,
        report_to="none",
    ),
    train_dataset=[encode(sample) for sample in questions(80)],
    data_collator=DataCollatorForSeq2Seq(tokenizer),
)
trainer.train()
trainer.save_model(out)
write_sidecar(out, group="examples", role="last", trained_for="neutral")
