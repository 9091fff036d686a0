# vLLM beside the gateway. Its words are those of nexus_llm.serve.engines.vllm_protocol: a test compares the two.

locals {
  engine_container = merge(local.image_defaults, {
    name       = "engine"
    image      = coalesce(var.engine.image, "none")
    essential  = true
    entryPoint = ["vllm"]
    command = concat(
      ["serve", "/model", "--host", "127.0.0.1", "--port", tostring(local.engine_port), "--served-model-name", var.model.name],
      ["--max-num-seqs", tostring(var.engine.max_running), "--gpu-memory-utilization", tostring(var.engine.gpu_memory_share)],
      ["--tensor-parallel-size", tostring(var.engine.gpus), "--dtype", "auto"],
      ["--max-logprobs", "20", "--logprobs-mode", "raw_logprobs"],
      ["--generation-config", "vllm", "--enable-prefix-caching", "--disable-uvicorn-access-log"],
      var.engine.context_tokens == null ? [] : ["--max-model-len", tostring(var.engine.context_tokens)],
      var.engine.quantization == null ? [] : ["--quantization", var.engine.quantization],
      var.engine.arguments,
    )
    # The image's own user is root with a home; ours has neither a name nor a home there.
    environment = [for name, value in {
      HOME                    = "/scratch"
      USER                    = "nexus"
      TMPDIR                  = "/scratch"
      XDG_CACHE_HOME          = "/scratch/cache"
      VLLM_CACHE_ROOT         = "/scratch/vllm"
      TRITON_CACHE_DIR        = "/scratch/triton"
      TORCHINDUCTOR_CACHE_DIR = "/scratch/inductor"
      HF_HUB_OFFLINE          = "1"
      VLLM_NO_USAGE_STATS     = "1"
    } : { name = name, value = value }]
    mountPoints          = concat(local.model_given, [local.scratch])
    resourceRequirements = [{ type = "GPU", value = tostring(var.engine.gpus) }]
    # Tensor parallel ranks exchange through /dev/shm; Docker's 64 MiB are too few.
    linuxParameters = merge(local.image_defaults.linuxParameters, { sharedMemorySize = 4096 })
    stopTimeout     = 120
    startTimeout    = var.engine.start_seconds
    dependsOn       = [{ containerName = "model", condition = "SUCCESS" }]
    healthCheck = {
      command     = ["CMD", "python3", "-c", local.probe["engine"]]
      interval    = 30
      timeout     = 5
      retries     = 10 # with startPeriod 10 minutes: an 8B model compiles and loads in 2 to 4
      startPeriod = 300
    }
    logConfiguration = merge(local.log_driver, {
      options = merge(local.log_driver.options, { "awslogs-stream-prefix" = "engine" })
    })
  })
}
