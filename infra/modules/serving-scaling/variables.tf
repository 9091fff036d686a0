variable "platform" {
  description = "What stage 1 made: the prefix of every name."
  type        = object({ name = string })
}

variable "cluster_name" {
  description = "Cluster of the service."
  type        = string
}

variable "service_name" {
  description = "Service whose tasks are counted; also the value of the metrics' dimension `Service`."
  type        = string
}

variable "balancer_arn_suffix" {
  description = "What metrics call the load balancer."
  type        = string
}

variable "tasks" {
  description = "Fewest and most tasks. A minimum of 0 lets the service sleep when nobody asks."
  type = object({
    min = number
    max = number
  })
  validation {
    condition     = var.tasks.min >= 0 && var.tasks.max >= 1 && var.tasks.min <= var.tasks.max && var.tasks.max <= 1000
    error_message = "tasks.min is 0 or more, tasks.max 1 to 1000 and not below tasks.min."
  }
}

variable "requests_per_task" {
  description = "Requests that each task shall have in flight, running and waiting: more start tasks, fewer end some."
  type        = number
  default     = 48
  validation {
    condition     = var.requests_per_task > 0
    error_message = "requests_per_task is above 0."
  }
}

variable "first_token_seconds" {
  description = "95th percentile of the time to the first token above which a task is added."
  type        = number
  default     = 2
  validation {
    condition     = var.first_token_seconds > 0
    error_message = "first_token_seconds is above 0."
  }
}

variable "schedule" {
  description = "When the service sleeps: two cron expressions of six fields (without `cron()`) and their time zone; null: never. `wake_on_request` lets a caller wake it between."
  type = object({
    sleep           = string
    wake            = string
    timezone        = optional(string, "Etc/UTC")
    wake_on_request = optional(bool, false)
  })
  default = null
  validation {
    condition     = var.schedule == null ? true : length(split(" ", var.schedule.sleep)) == 6 && length(split(" ", var.schedule.wake)) == 6
    error_message = "schedule.sleep and schedule.wake have six fields: minutes hours day-of-month month day-of-week year, as in `0 19 ? * MON-FRI *`."
  }
}
