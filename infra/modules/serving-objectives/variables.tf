variable "platform" {
  description = "What stage 1 made: names, region, account, alerts."
  type = object({
    name             = string
    region           = string
    account_id       = string
    alerts_topic_arn = string
  })
}

variable "cluster_name" {
  description = "The cluster whose running tasks the dashboard shows."
  type        = string
}

variable "service_name" {
  description = "Value of the metrics' dimension `Service`, and the service whose tasks are shown."
  type        = string
}

variable "objectives" {
  description = "What is promised over 30 days, in percent: requests that do not fail; first tokens within first_token_seconds and whole answers within answer_seconds. Below least_requests in a window no alarm speaks."
  type = object({
    available_percent   = optional(number, 99.9)
    fast_percent        = optional(number, 95)
    first_token_seconds = optional(number, 2)
    answer_seconds      = optional(number, 30)
    least_requests      = optional(number, 50)
  })
  default = {}
  validation {
    condition     = min(var.objectives.available_percent, var.objectives.fast_percent) >= 93.1 && max(var.objectives.available_percent, var.objectives.fast_percent) < 100
    error_message = "available_percent and fast_percent are at least 93.1, so that 14.4 times their budget can be spent at all, and below 100."
  }
  validation {
    condition     = var.objectives.first_token_seconds > 0 && var.objectives.answer_seconds > 0 && var.objectives.least_requests >= 1
    error_message = "Seconds are above 0, least_requests is at least 1."
  }
}

variable "alarm_names" {
  description = "Further alarms whose states the dashboard shows."
  type        = list(string)
  default     = []
}
