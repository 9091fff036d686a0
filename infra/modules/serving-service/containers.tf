# The containers of one task, in the order in which they start: model (fetches and ends), engine, gateway; tracing beside.

locals {
  service_name   = "${var.platform.name}-api"
  is_on_gpu      = var.engine.kind == "vllm"
  has_model      = var.engine.kind != "openai"
  container_port = 8000
  engine_port    = 8001
  # The user of containers/serve. Its folders /model and /scratch give the volumes their owner, because that image mounts
  # them first; whatever else runs in the task runs as the same user.
  user = "10001:10001"

  image_defaults = {
    user                   = local.user
    readonlyRootFilesystem = true
    privileged             = false
    linuxParameters        = { initProcessEnabled = true, capabilities = { drop = ["ALL"], add = [] } }
    dockerSecurityOptions  = local.is_on_gpu ? ["no-new-privileges"] : [] # Fargate refuses the field
    systemControls         = []
    volumesFrom            = []
    portMappings           = []
    secrets                = []
  }

  scratch     = { sourceVolume = "scratch", containerPath = "/scratch", readOnly = false }
  model_in    = { sourceVolume = "model", containerPath = "/model", readOnly = false }
  model_given = local.has_model ? [{ sourceVolume = "model", containerPath = "/model", readOnly = true }] : []

  containers = concat(
    local.has_model ? [local.model_container] : [],
    local.is_on_gpu ? [local.engine_container] : [],
    [local.gateway_container],
    var.tracing_image == null ? [] : [local.tracing_container],
  )

  model_container = merge(local.image_defaults, {
    name         = "model"
    image        = var.gateway_image
    essential    = false # it ends when the files are there
    entryPoint   = ["python", "-m", "nexus_llm.cli.fetch_model"]
    command      = ["s3://${var.platform.models_bucket}/${coalesce(var.model.key, "none")}", "/model"]
    environment  = [{ name = "AWS_REGION", value = var.platform.region }]
    mountPoints  = [local.model_in, local.scratch]
    startTimeout = local.is_on_gpu ? 1800 : null # 140 GB at 100 MB/s; Fargate takes 120 at most, and without one it waits
    logConfiguration = merge(local.log_driver, {
      options = merge(local.log_driver.options, { "awslogs-stream-prefix" = "model" })
    })
  })

  gateway_container = merge(local.image_defaults, {
    name         = "gateway"
    image        = var.gateway_image
    essential    = true
    command      = concat(["serve"], local.gateway_arguments)
    portMappings = [{ name = "api", containerPort = local.container_port, hostPort = local.container_port, protocol = "tcp" }]
    environment = [for name, value in merge(
      { AWS_REGION = var.platform.region, NEXUS_SERVICE = local.service_name },
      var.database == null ? {} : { NEXUS_DATABASE = var.database.url, NEXUS_DATABASE_AUTH = "aws-iam" },
      var.tracing_image == null ? {} : {
        OTEL_EXPORTER_OTLP_ENDPOINT = "http://127.0.0.1:4318"
        OTEL_SERVICE_NAME           = local.service_name
      },
    ) : { name = name, value = value }]
    secrets     = [for name, arn in var.secrets : { name = name, valueFrom = arn }]
    mountPoints = concat(local.model_given, [local.scratch])
    # ECS sends SIGTERM after the target group has drained; Fargate grants 120 s at most.
    stopTimeout = 120
    dependsOn = local.is_on_gpu ? [{ containerName = "engine", condition = "HEALTHY" }] : (
      local.has_model ? [{ containerName = "model", condition = "SUCCESS" }] : []
    )
    healthCheck = {
      command     = ["CMD", "python", "-c", local.probe["gateway"]]
      interval    = 30
      timeout     = 5
      retries     = 3
      startPeriod = 300 # the most that ECS takes
    }
    logConfiguration = merge(local.log_driver, {
      options = merge(local.log_driver.options, { "awslogs-stream-prefix" = "gateway" })
    })
  })

  gateway_arguments = concat(
    [local.is_on_gpu || !local.has_model ? var.model.name : "/model"],
    ["--host", "0.0.0.0", "--port", tostring(local.container_port), "--name", var.model.name],
    ["--drain-seconds", tostring(min(110, var.longest_answer_seconds)), "--log-level", "info"],
    ["--set", "serve.max_running=${var.engine.max_running}"],
    local.is_on_gpu || !local.has_model ? [
      "--set", "serve.engine=openai",
      "--set", "serve.upstream.url=${local.is_on_gpu ? "http://127.0.0.1:${local.engine_port}/v1" : coalesce(var.engine.upstream_url, "none")}",
    ] : ["--set", "serve.engine=openvino"],
    var.engine.key_variable == null ? [] : ["--set", "serve.upstream.key_variable=${var.engine.key_variable}"],
  )

  probe = {
    for name, port in { gateway = local.container_port, engine = local.engine_port } :
    name => "import urllib.request as r; r.urlopen('http://127.0.0.1:${port}/health', timeout=4)"
  }

  tracing_container = merge(local.image_defaults, {
    name        = "tracing"
    image       = coalesce(var.tracing_image, "none")
    essential   = false # answers matter more than their traces
    command     = ["--config=/etc/ecs/ecs-default-config.yaml"]
    environment = [{ name = "AWS_REGION", value = var.platform.region }]
    mountPoints = []
    logConfiguration = merge(local.log_driver, {
      options = merge(local.log_driver.options, { "awslogs-stream-prefix" = "tracing" })
    })
  })

  log_driver = {
    logDriver = "awslogs"
    options = {
      "awslogs-group"  = aws_cloudwatch_log_group.this.name
      "awslogs-region" = var.platform.region
      # A full buffer loses lines instead of stopping answers.
      "mode"            = "non-blocking"
      "max-buffer-size" = "25m"
    }
  }
}
