"""Train an adapter for `neutral` with TRL's SFTTrainer.

python examples/sft_trainer.py MODEL OUT
"""

from __future__ import annotations

import sys

from datasets import Dataset
from peft import LoraConfig, get_peft_model
from questions import questions
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from lragent.training import prepare_for_neutral, write_sidecar

model_name, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(model_name)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

lora = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_name), lora)
prepare_for_neutral(model)  # the only line that differs from ordinary training

trainer = SFTTrainer(
    model,
    SFTConfig(
        out,
        max_steps=20,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        gradient_checkpointing=True,
        learning_rate=1e-3,
        logging_steps=5,
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        report_to="none",
    ),
    # With prompt and completion apart, SFTTrainer learns completions only.
    train_dataset=Dataset.from_list(questions(80)),
    processing_class=tokenizer,
)
trainer.train()
trainer.save_model(out)
write_sidecar(out, group="examples", role="last", trained_for="neutral")
