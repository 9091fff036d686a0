variable "platform" {
  description = "What stage 1 made: names, network, the bucket of access logs, alerts."
  type = object({
    name               = string
    vpc_id             = string
    vpc_cidr           = string
    public_subnet_ids  = list(string)
    private_subnet_ids = list(string)
    logs_bucket        = string
    alerts_topic_arn   = string
  })
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.platform.name))
    error_message = "platform.name is 3 to 20 characters: lower-case letters, digits and inner hyphens."
  }
  validation {
    condition     = length(var.platform.public_subnet_ids) >= 2 && length(var.platform.private_subnet_ids) >= 2
    error_message = "A balancer needs subnets in two zones."
  }
}

variable "certificate_arn" {
  description = "ACM certificate of the API's host name, issued in the same region."
  type        = string
  validation {
    condition     = can(regex("^arn:aws[a-z-]*:acm:[a-z0-9-]+:[0-9]{12}:certificate/.+$", var.certificate_arn))
    error_message = "certificate_arn is an ACM certificate: arn:aws:acm:REGION:ACCOUNT:certificate/ID."
  }
}

variable "ssl_policy" {
  description = "TLS 1.3, and 1.2 with forward secrecy only, with post-quantum key exchange where the client can. What AWS recommended in 2026-11."
  type        = string
  default     = "ELBSecurityPolicy-TLS13-1-2-Res-PQ-2025-09"
  validation {
    condition     = can(regex("^ELBSecurityPolicy-TLS13-1-[23]-", var.ssl_policy))
    error_message = "ssl_policy must allow TLS 1.3 and nothing below 1.2: ELBSecurityPolicy-TLS13-1-2-… or …-TLS13-1-3-…."
  }
}

variable "is_internal" {
  description = "True puts the balancer into the private subnets: only the VPC and what is joined to it can reach the API."
  type        = bool
  default     = false
}

variable "client_cidrs" {
  description = "Who may connect. Everybody is the default of a public API: keys, limits and the firewall decide about the rest."
  type        = list(string)
  default     = ["0.0.0.0/0"]
  validation {
    condition     = length(var.client_cidrs) > 0 && alltrue([for one in var.client_cidrs : can(cidrhost(one, 0))])
    error_message = "client_cidrs are one or more IPv4 ranges such as 203.0.113.0/24."
  }
}

variable "test_cidrs" {
  description = "From where a new version may be asked before clients see it, besides this network: whoever runs `nexus deploy`."
  type        = list(string)
  default     = []
  validation {
    condition     = alltrue([for one in var.test_cidrs : can(cidrhost(one, 0)) && !endswith(one, "/0")])
    error_message = "test_cidrs are IPv4 ranges such as 203.0.113.7/32, and never everybody's."
  }
}

variable "container_port" {
  description = "Port of the gateway in its task."
  type        = number
  default     = 8000
  validation {
    condition     = var.container_port >= 1024 && var.container_port <= 65535
    error_message = "container_port is 1024 to 65535: the gateway is not root."
  }
}

variable "longest_answer_seconds" {
  description = "How long one answer may take: the balancer's patience, and what open streams get when a task leaves."
  type        = number
  default     = 300
  validation {
    condition     = var.longest_answer_seconds >= 30 && var.longest_answer_seconds <= 3600
    error_message = "longest_answer_seconds is 30 to 3600."
  }
}

variable "server_error_percent" {
  description = "Share of 5xx answers in percent above which the alarm fires."
  type        = number
  default     = 5
  validation {
    condition     = var.server_error_percent > 0 && var.server_error_percent <= 100
    error_message = "server_error_percent is above 0 and at most 100."
  }
}

variable "is_deletion_protected" {
  description = "True refuses to delete the balancer, and so to destroy the stage."
  type        = bool
  default     = true
}
