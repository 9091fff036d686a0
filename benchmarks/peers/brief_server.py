"""The server that this project replaces: FastAPI around `transformers`' `generate`, one request at a time.

Written anew after the first design of this platform, to be measured against and for nothing else. What makes it slow
is kept: `generate` blocks the event loop, so requests queue behind one another. It gets float32 weights, because
float16, which that design asked for, is slower still on a CPU.

    python benchmarks/peers/brief_server.py MODEL_FOLDER PORT
"""

from __future__ import annotations

import sys

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoModelForCausalLM, AutoTokenizer


class GenerateRequest(BaseModel):
    """What a client asks."""

    prompt: str
    max_tokens: int = 512
    temperature: float = 0.8
    top_p: float = 0.95


class GenerateResponse(BaseModel):
    """What it gets, all at once."""

    response: str
    tokens_generated: int


def create_app(folder: str) -> FastAPI:
    """The application around one model."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    app = FastAPI()

    @app.post("/generate")
    async def generate(request: GenerateRequest) -> GenerateResponse:
        inputs = tokenizer(request.prompt, return_tensors="pt")
        with torch.no_grad():
            outputs = model.generate(
                **inputs,
                max_new_tokens=request.max_tokens,
                temperature=request.temperature,
                top_p=request.top_p,
                do_sample=True,
                pad_token_id=tokenizer.eos_token_id,
            )
        new = outputs[0][inputs.input_ids.shape[1] :]
        return GenerateResponse(response=tokenizer.decode(new, skip_special_tokens=True), tokens_generated=len(new))

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "healthy"}

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
