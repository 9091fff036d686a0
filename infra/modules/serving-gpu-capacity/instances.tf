# GPU machines that ECS starts when a task waits for one and stops when none does.

resource "aws_launch_template" "gpu" {
  name = "${var.platform.name}-gpu"
  # Resolved by EC2 at each launch: a new machine has the newest driver, and a plan needs no look-up.
  image_id               = "resolve:ssm:${var.ami_parameter}"
  instance_type          = var.instance_type
  update_default_version = true
  ebs_optimized          = true

  iam_instance_profile {
    arn = aws_iam_instance_profile.instance.arn
  }

  # Model files and image layers lie here: Docker's volumes are folders of this disk.
  block_device_mappings {
    device_name = "/dev/xvda"
    ebs {
      encrypted             = true
      kms_key_id            = var.platform.kms_key_arn
      volume_type           = "gp3"
      volume_size           = var.disk.gib
      throughput            = var.disk.mib_per_second
      iops                  = max(3000, var.disk.mib_per_second * 4) # gp3 gives at most 0.25 MiB/s an operation
      delete_on_termination = true
    }
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  monitoring {
    enabled = true
  }

  network_interfaces {
    associate_public_ip_address = false
    delete_on_termination       = true
    security_groups             = [aws_security_group.instance.id]
  }

  user_data = base64encode(join("\n", [
    "#!/bin/bash",
    "cat >> /etc/ecs/ecs.config <<'END'",
    "ECS_CLUSTER=${var.platform.name}",
    "ECS_ENABLE_GPU_SUPPORT=true",
    # Without it, a machine that is only being warmed up would join the cluster.
    "ECS_WARM_POOLS_CHECK=true",
    # A task has its own role; the machine's credentials are none of its business.
    "ECS_AWSVPC_BLOCK_IMDS=true",
    # 10 GB of engine image are pulled once a machine, not once a task.
    "ECS_IMAGE_PULL_BEHAVIOR=prefer-cached",
    "END",
    "",
  ]))

  # default_tags of the provider do not reach what a scaling group starts.
  dynamic "tag_specifications" {
    for_each = toset(["instance", "volume"])
    content {
      resource_type = tag_specifications.value
      tags          = merge(var.platform.tags, { Name = "${var.platform.name}-gpu" })
    }
  }
}

resource "aws_autoscaling_group" "gpu" {
  name                  = "${var.platform.name}-gpu"
  min_size              = 0
  max_size              = var.max_instances
  vpc_zone_identifier   = var.platform.private_subnet_ids
  health_check_type     = "EC2"
  protect_from_scale_in = true # ECS decides which machine is empty
  # Protected machines would otherwise keep `terraform destroy` waiting until it gives up.
  force_delete    = true
  enabled_metrics = ["GroupDesiredCapacity", "GroupInServiceInstances", "WarmPoolWarmedCapacity"]

  launch_template {
    id      = aws_launch_template.gpu.id
    version = aws_launch_template.gpu.latest_version
  }

  dynamic "warm_pool" {
    for_each = var.warm_instances > 0 ? [1] : []
    content {
      pool_state                  = "Stopped" # its disk is paid for, the GPU is not
      min_size                    = var.warm_instances
      max_group_prepared_capacity = var.max_instances
    }
  }

  tag {
    key                 = "AmazonECSManaged"
    value               = "true"
    propagate_at_launch = true
  }

  lifecycle {
    ignore_changes = [desired_capacity] # ECS sets it
  }
}

resource "aws_ecs_capacity_provider" "gpu" {
  name = "${var.platform.name}-gpu"

  auto_scaling_group_provider {
    auto_scaling_group_arn         = aws_autoscaling_group.gpu.arn
    managed_termination_protection = "ENABLED"
    managed_draining               = "ENABLED"

    managed_scaling {
      status                    = "ENABLED"
      target_capacity           = 100 # no machine idles: a GPU-hour costs more than a minute of waiting
      minimum_scaling_step_size = 1
      maximum_scaling_step_size = min(var.max_instances, 10)
      instance_warmup_period    = 180
    }
  }
}
