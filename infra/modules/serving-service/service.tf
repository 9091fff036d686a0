# One service: gateway and engine behind a target group, replaced as a whole by CodeDeploy.

resource "aws_ecs_task_definition" "this" {
  family                   = local.service_name
  container_definitions    = jsonencode(local.containers)
  requires_compatibilities = [local.is_on_gpu ? "EC2" : "FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.size.cpu
  memory                   = var.size.memory_mib
  execution_role_arn       = aws_iam_role.execution.arn
  task_role_arn            = aws_iam_role.task.arn

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = "X86_64"
  }

  volume {
    name = "model"
  }

  volume {
    name = "scratch"
  }

  dynamic "ephemeral_storage" {
    for_each = local.is_on_gpu ? [] : [1] # on EC2 the volumes are folders of the machine's disk
    content {
      size_in_gib = var.size.storage_gib
    }
  }
}

resource "aws_ecs_service" "this" {
  # checkov:skip=CKV_AWS_332:platform_version is LATEST by default, and EC2 tasks have none
  name            = local.service_name
  cluster         = var.cluster.arn
  task_definition = aws_ecs_task_definition.this.arn
  desired_count   = var.size.tasks
  # Model fetched, engine loaded, two good answers of /ready.
  health_check_grace_period_seconds = var.engine.start_seconds
  enable_execute_command            = false
  enable_ecs_managed_tags           = true
  propagate_tags                    = "SERVICE"

  capacity_provider_strategy {
    capacity_provider = var.cluster.capacity_provider
    weight            = 1
  }

  deployment_controller {
    type = "CODE_DEPLOY"
  }

  network_configuration {
    subnets          = var.platform.private_subnet_ids
    security_groups  = [aws_security_group.task.id]
    assign_public_ip = false
  }

  load_balancer {
    target_group_arn = var.balancer.target_group_arn
    container_name   = "gateway"
    container_port   = local.container_port
  }

  lifecycle {
    # CodeDeploy brings new tasks and turns the target groups; auto scaling counts.
    ignore_changes = [desired_count, load_balancer, task_definition]
    precondition {
      condition     = local.is_on_gpu == !startswith(var.cluster.capacity_provider, "FARGATE")
      error_message = "engine vllm needs a capacity provider of GPU machines, the other engines FARGATE or FARGATE_SPOT: Fargate has no GPU."
    }
  }

  depends_on = [aws_iam_role_policy.execution, aws_iam_role_policy.task]
}
