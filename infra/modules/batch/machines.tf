# Machines that appear with the first job of a queue and go with the last.

resource "aws_security_group" "machines" {
  name        = "${var.name}-batch"
  description = "Batch machines: nothing comes in, HTTPS goes out"
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-batch" }
}

resource "aws_vpc_security_group_egress_rule" "https" {
  security_group_id = aws_security_group.machines.id
  description       = "S3, ECR, ECS, logs and sources of data over HTTPS"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_launch_template" "machine" {
  for_each               = var.queues
  name                   = "${var.name}-batch-${each.key}"
  update_default_version = true

  block_device_mappings {
    device_name = "/dev/xvda"
    ebs {
      volume_type           = "gp3"
      volume_size           = each.value.disk_gib
      encrypted             = true
      kms_key_id            = var.kms_key_arn
      delete_on_termination = true
    }
  }
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1 # a container gets its job's role, never the machine's
  }
  # Machines and disks are not tagged by the provider's default tags.
  dynamic "tag_specifications" {
    for_each = ["instance", "volume"]
    content {
      resource_type = tag_specifications.value
      tags          = { Name = "${var.name}-batch-${each.key}", platform = var.name }
    }
  }
}

resource "aws_batch_compute_environment" "this" {
  for_each                 = var.queues
  compute_environment_name = "${var.name}-${each.key}"
  type                     = "MANAGED"
  # No service_role: Batch's own service-linked role, whose rights AWS keeps narrow.

  compute_resources {
    type                = each.value.spot ? "SPOT" : "EC2"
    allocation_strategy = each.value.spot ? "SPOT_PRICE_CAPACITY_OPTIMIZED" : "BEST_FIT_PROGRESSIVE"
    instance_type       = each.value.instance_types
    min_vcpus           = 0
    max_vcpus           = each.value.max_vcpus
    instance_role       = var.instance_profile_arn
    subnets             = var.subnet_ids
    security_group_ids  = [aws_security_group.machines.id]

    ec2_configuration {
      image_type = each.value.gpu ? "ECS_AL2023_NVIDIA" : "ECS_AL2023"
    }
    launch_template {
      launch_template_id = aws_launch_template.machine[each.key].id
      version            = "$Latest"
    }
  }
  update_policy {
    terminate_jobs_on_update      = false
    job_execution_timeout_minutes = 60
  }
  lifecycle {
    # A queue must never be without an environment, and the scaler owns the number of machines.
    ignore_changes = [compute_resources[0].desired_vcpus]
  }
}

resource "aws_batch_job_queue" "this" {
  for_each = var.queues
  name     = "${var.name}-${each.key}"
  state    = "ENABLED"
  priority = 1

  compute_environment_order {
    order               = 1
    compute_environment = aws_batch_compute_environment.this[each.key].arn
  }
  # A job that no machine can ever hold would wait for ever, and nobody would know.
  job_state_time_limit_action {
    action           = "CANCEL"
    state            = "RUNNABLE"
    reason           = "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT"
    max_time_seconds = 600
  }
}
