variable "platform" {
  description = "What stage 1 made: names, region, the key that encrypts logs, alerts."
  type = object({
    name             = string
    region           = string
    kms_key_arn      = string
    alerts_topic_arn = string
  })
}

variable "balancer_arn" {
  description = "The load balancer to stand before."
  type        = string
}

variable "requests_per_five_minutes" {
  description = "Requests that one address may send in 5 minutes; more are answered 429. An office behind one address counts as one."
  type        = number
  default     = 3000
  validation {
    condition     = var.requests_per_five_minutes >= 10 && var.requests_per_five_minutes <= 2000000000
    error_message = "requests_per_five_minutes is 10 to 2,000,000,000 (WAF's bounds)."
  }
}

variable "blocked_alarm_per_minute" {
  description = "Turned away requests a minute above which the alarm fires."
  type        = number
  default     = 500
  validation {
    condition     = var.blocked_alarm_per_minute > 0
    error_message = "blocked_alarm_per_minute is above 0."
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
