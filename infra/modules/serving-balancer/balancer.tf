# One address for clients. Behind it two target groups, so that a new version can warm up while the old one answers.

resource "aws_lb" "this" {
  # checkov:skip=CKV2_AWS_76:the firewall lies in its own module, serving-firewall, with the Log4j rules; checkov sees no reference through modules
  # checkov:skip=CKV2_AWS_28:the firewall is associated in module serving-firewall
  name                       = var.platform.name
  load_balancer_type         = "application"
  internal                   = var.is_internal
  subnets                    = var.is_internal ? var.platform.private_subnet_ids : var.platform.public_subnet_ids
  security_groups            = [aws_security_group.this.id]
  drop_invalid_header_fields = true
  desync_mitigation_mode     = "strictest"
  enable_deletion_protection = var.is_deletion_protected
  # An answer that is not streamed sends nothing before it is whole.
  idle_timeout = var.longest_answer_seconds

  access_logs {
    bucket  = var.platform.logs_bucket
    prefix  = "alb"
    enabled = true
  }

  connection_logs {
    bucket  = var.platform.logs_bucket
    prefix  = "alb-connections"
    enabled = true
  }
}

resource "aws_lb_target_group" "colour" {
  for_each = toset(["blue", "green"])
  # checkov:skip=CKV_AWS_378:TLS ends at the balancer; the way to the task stays inside the VPC, between two security groups
  name        = "${var.platform.name}-${each.key}"
  vpc_id      = var.platform.vpc_id
  target_type = "ip"
  protocol    = "HTTP"
  port        = var.container_port
  # Answers differ in length by orders of magnitude: the idlest task, not the next one, gets the request.
  load_balancing_algorithm_type = "least_outstanding_requests"
  # Open streams of a task that leaves may finish; ECS stops it only then.
  deregistration_delay = var.longest_answer_seconds

  health_check {
    path                = "/ready" # 503 while loading and while draining
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 3
  }
}

resource "aws_lb_listener" "redirect" {
  load_balancer_arn = aws_lb.this.arn
  port              = 80
  protocol          = "HTTP"

  default_action {
    type = "redirect"
    redirect {
      port        = "443"
      protocol    = "HTTPS"
      status_code = "HTTP_301"
    }
  }
}

resource "aws_lb_listener" "production" {
  load_balancer_arn = aws_lb.this.arn
  port              = 443
  protocol          = "HTTPS"
  ssl_policy        = var.ssl_policy
  certificate_arn   = var.certificate_arn

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.colour["blue"].arn
  }

  lifecycle {
    ignore_changes = [default_action] # CodeDeploy turns it to green and back
  }
}

# Where a new version is tried before any client sees it.
resource "aws_lb_listener" "test" {
  load_balancer_arn = aws_lb.this.arn
  port              = 8443
  protocol          = "HTTPS"
  ssl_policy        = var.ssl_policy
  certificate_arn   = var.certificate_arn

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.colour["blue"].arn
  }

  lifecycle {
    ignore_changes = [default_action]
  }
}
