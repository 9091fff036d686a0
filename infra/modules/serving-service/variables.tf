variable "platform" {
  description = "What stage 1 made: names, network, key, buckets, boundary, alerts."
  type = object({
    name                       = string
    region                     = string
    account_id                 = string
    vpc_id                     = string
    private_subnet_ids         = list(string)
    endpoint_security_group_id = string
    kms_key_arn                = string
    models_bucket              = string
    models_bucket_arn          = string
    alerts_topic_arn           = string
    permissions_boundary_arn   = optional(string)
  })
}

variable "cluster" {
  description = "Where tasks run: the cluster's ARN, and the capacity provider, FARGATE or one of GPU machines."
  type = object({
    arn               = string
    capacity_provider = optional(string, "FARGATE")
  })
}

variable "balancer" {
  description = "Who sends requests: the balancer's security group, and the target group that a new service starts in (blue)."
  type = object({
    security_group_id = string
    target_group_arn  = string
  })
}

variable "gateway_image" {
  description = "Our image (containers/serve), by tag or digest; never `latest`, which names another program tomorrow."
  type        = string
  validation {
    condition     = can(regex("(:[A-Za-z0-9._-]+|@sha256:[0-9a-f]{64})$", var.gateway_image)) && !endswith(var.gateway_image, ":latest")
    error_message = "gateway_image ends in a tag other than latest or in a digest: ….amazonaws.com/NAME/serve:1.2.0."
  }
}

variable "engine" {
  description = <<-END
    What generates. `openvino`: inside the gateway's container, on CPU. `vllm`: `image` in a container beside the gateway,
    on `gpus` GPUs. `openai`: another server at `upstream_url`; the task is the gateway alone. `start_seconds`: how long a
    task may take from its model's arrival to being ready. `arguments`: further flags of `vllm serve`, word by word.
  END
  type = object({
    kind             = string
    image            = optional(string)
    gpus             = optional(number, 1)
    max_running      = optional(number, 64)
    context_tokens   = optional(number)
    gpu_memory_share = optional(number, 0.9)
    quantization     = optional(string)
    arguments        = optional(list(string), [])
    upstream_url     = optional(string)
    key_variable     = optional(string)
    start_seconds    = optional(number, 600)
  })
  validation {
    condition     = contains(["openvino", "vllm", "openai"], var.engine.kind)
    error_message = "engine.kind is openvino (CPU), vllm (GPU) or openai (another server)."
  }
  validation {
    condition     = (var.engine.kind == "vllm") == (var.engine.image != null) && !endswith(coalesce(var.engine.image, "-"), ":latest")
    error_message = "engine.image belongs to engine.kind vllm, as in vllm/vllm-openai:v0.33.0 (better its copy in your own ECR), and is never latest."
  }
  validation {
    condition     = (var.engine.kind == "openai") == (var.engine.upstream_url != null)
    error_message = "engine.upstream_url belongs to engine.kind openai: the base URL that ends before /chat/completions."
  }
  validation {
    condition     = var.engine.gpu_memory_share > 0 && var.engine.gpu_memory_share <= 1 && var.engine.gpus >= 1 && var.engine.max_running >= 1
    error_message = "engine.gpu_memory_share is above 0 and at most 1; gpus and max_running are at least 1."
  }
  validation {
    condition     = var.engine.start_seconds >= 60 && var.engine.start_seconds <= 3600
    error_message = "engine.start_seconds is 60 to 3600."
  }
}

variable "model" {
  description = "What is served: the name that clients use, and where its package artifact lies in the models bucket (the folder with manifest.json)."
  type = object({
    name = string
    key  = optional(string)
  })
  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", var.model.name))
    error_message = "model.name is letters, digits, dot, dash, underscore; 63 characters at most."
  }
  validation {
    condition     = (var.engine.kind == "openai") == (var.model.key == null) && can(regex("^[A-Za-z0-9][A-Za-z0-9/._-]*[A-Za-z0-9]$", coalesce(var.model.key, "none")))
    error_message = "model.key is the artifact's folder in the models bucket, as in package/1a2b3c, without slashes at its ends; engine openai has none."
  }
}

variable "size" {
  description = "One task: CPU units (1024 a core), memory in MiB, on Fargate its disk in GiB; and how many tasks a new service starts with."
  type = object({
    cpu         = number
    memory_mib  = number
    storage_gib = optional(number, 50)
    tasks       = optional(number, 1)
  })
  validation {
    condition     = var.size.storage_gib >= 21 && var.size.storage_gib <= 200
    error_message = "size.storage_gib is 21 to 200 (Fargate)."
  }
}

variable "secrets" {
  description = "Environment variable → ARN of the Secrets Manager secret whose value it gets (`ARN:KEY::` for one key of a JSON secret). Values never pass through Terraform."
  type        = map(string)
  default     = {}
  validation {
    condition = alltrue([
      for name, arn in var.secrets :
      can(regex("^[A-Z][A-Z0-9_]*$", name)) && can(regex("^arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:.+$", arn))
    ])
    error_message = "secrets maps names like UPSTREAM_KEY to ARNs like arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME-abcdef."
  }
}

variable "database" {
  description = "Where keys, limits and usage are kept: a URL without a password, and the ARN that allows to log in with an IAM token; null: the API is open to everybody who reaches it."
  type = object({
    url         = string
    connect_arn = string
  })
  default = null
}

variable "objectives" {
  description = "What the alarms hold the service to: share of failed requests in percent, 95th percentile of the first token's time in seconds, waiting requests a task."
  type = object({
    error_percent       = optional(number, 5)
    first_token_seconds = optional(number, 2)
    queue_depth         = optional(number, 32)
  })
  default = {}
  validation {
    condition     = var.objectives.error_percent > 0 && var.objectives.first_token_seconds > 0 && var.objectives.queue_depth > 0
    error_message = "Each objective is above 0."
  }
}

variable "longest_answer_seconds" {
  description = "How long one answer may take. The same number as the balancer's."
  type        = number
  default     = 300
  validation {
    condition     = var.longest_answer_seconds >= 30 && var.longest_answer_seconds <= 3600
    error_message = "longest_answer_seconds is 30 to 3600."
  }
}

variable "tracing_image" {
  description = "Image of the ADOT collector that takes the gateway's traces to X-Ray, as in public.ecr.aws/aws-observability/aws-otel-collector:v0.43.3; null: no sidecar."
  type        = string
  default     = null
}

variable "https_egress_cidrs" {
  description = "Where tasks may connect to over HTTPS besides the VPC endpoints: S3's public addresses, and the upstream of engine openai."
  type        = list(string)
  default     = ["0.0.0.0/0"]
  validation {
    condition     = alltrue([for one in var.https_egress_cidrs : can(cidrhost(one, 0))])
    error_message = "https_egress_cidrs are IPv4 ranges such as 10.0.0.0/8."
  }
}

variable "log_retention_days" {
  description = "Days that CloudWatch keeps log lines."
  type        = number
  default     = 365
  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "CloudWatch keeps logs for 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288 or 3653 days."
  }
}
