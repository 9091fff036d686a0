variable "platform_file" {
  description = "JSON document that stage 1 wrote (terraform output -json platform)."
  type        = string
  validation {
    condition     = fileexists(var.platform_file)
    error_message = "platform_file does not exist: apply stage 1 and write its outputs (see README.md)."
  }
}

variable "gateway_version" {
  description = "Which of our images in the serve repository: `:TAG` or `@sha256:DIGEST`."
  type        = string
  validation {
    condition     = can(regex("^(:[A-Za-z0-9._-]+|@sha256:[0-9a-f]{64})$", var.gateway_version)) && var.gateway_version != ":latest"
    error_message = "gateway_version is :TAG (not latest) or @sha256:DIGEST."
  }
}

variable "engine" {
  description = "What generates: kind openvino (CPU, Fargate), vllm (GPU, with its image) or openai (another server). See module serving-service."
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
  default = { kind = "openvino" }
}

variable "model" {
  description = "What is served: the name that clients use, and its package artifact's folder in the models bucket."
  type = object({
    name = string
    key  = optional(string)
  })
}

variable "size" {
  description = "One task: CPU units (1024 a core), memory in MiB, on Fargate its disk in GiB."
  type = object({
    cpu         = number
    memory_mib  = number
    storage_gib = optional(number, 50)
  })
  default = { cpu = 4096, memory_mib = 16384 }
}

variable "tasks" {
  description = "Fewest and most tasks. A minimum of 0 sleeps until somebody calls."
  type = object({
    min = number
    max = number
  })
  default = { min = 2, max = 8 }
}

variable "gpu" {
  description = "Machines of engine vllm: type, most at once (room for blue and green), stopped ones that are ready, disk in GiB."
  type = object({
    instance_type  = optional(string, "g6.xlarge")
    max_instances  = optional(number, 4)
    warm_instances = optional(number, 0)
    disk_gib       = optional(number, 200)
  })
  default = {}
}

variable "network" {
  description = "Who may call (is_internal, client_cidrs, requests_per_five_minutes of one address), who may ask a new version first (test_cidrs), and where tasks may connect to over HTTPS besides endpoints."
  type = object({
    is_internal               = optional(bool, false)
    client_cidrs              = optional(list(string), ["0.0.0.0/0"])
    test_cidrs                = optional(list(string), [])
    requests_per_five_minutes = optional(number, 3000)
    https_egress_cidrs        = optional(list(string), ["0.0.0.0/0"])
  })
  default = {}
}

variable "certificate_arn" {
  description = "ACM certificate of the API's host name, in the same region."
  type        = string
}

variable "host_name" {
  description = "The certificate's name, which leads to the balancer: rollouts ask it, and no certificate holds for the balancer's own name."
  type        = string
  default     = null
  validation {
    condition     = var.host_name == null || can(regex("^[a-z0-9-]+(\\.[a-z0-9-]+)+$", var.host_name))
    error_message = "host_name is a name such as llm.example.com, without https:// and without a port."
  }
}

variable "database" {
  description = "PostgreSQL for keys, limits and usage; null: none, and the API is open to everybody who reaches it."
  type = object({
    capacity_units = optional(object({ min = optional(number, 0.5), max = optional(number, 4) }), {})
    instances      = optional(number, 1)
    backup_days    = optional(number, 14)
  })
  default = null
}

variable "secrets" {
  description = "Environment variable → ARN of the secret whose value the gateway gets."
  type        = map(string)
  default     = {}
}

variable "objectives" {
  description = "What the alarms hold the service to: failed requests in percent, p95 of the first token in seconds, waiting requests a task; and over 30 days, see module serving-objectives: the percent of requests that do not fail, and of first tokens and answers that come in time."
  type = object({
    available_percent   = optional(number, 99.9)
    fast_percent        = optional(number, 95)
    answer_seconds      = optional(number, 30)
    error_percent       = optional(number, 5)
    first_token_seconds = optional(number, 2)
    queue_depth         = optional(number, 32)
  })
  default = {}
}

variable "requests_per_task" {
  description = "Requests that each task shall have in flight, running and waiting; null: three quarters of engine.max_running."
  type        = number
  default     = null
}

variable "schedule" {
  description = "When the service sleeps and wakes; null: never. See module serving-scaling."
  type = object({
    sleep           = string
    wake            = string
    timezone        = optional(string, "Etc/UTC")
    wake_on_request = optional(bool, false)
  })
  default = null
}

variable "longest_answer_seconds" {
  description = "How long one answer may take: the balancer's patience, and what open streams get when a task leaves."
  type        = number
  default     = 300
}

variable "tracing_image" {
  description = "Image of the ADOT collector; null: no sidecar."
  type        = string
  default     = null
}

variable "log_retention_days" {
  description = "Days that CloudWatch keeps log lines."
  type        = number
  default     = 365
}

variable "is_deletion_protected" {
  description = "True refuses to destroy balancer and database."
  type        = bool
  default     = true
}
